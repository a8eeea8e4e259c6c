"""Folders from diffusers to SAT and back, and goldens of SAT to diffusers and back: bit for bit."""

import filecmp
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.config.variants import COGVIDEOX_5B, PUBLISHED, TINY, Variant
from cogworks.errors import WeightsError
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.weights.convert import convert_folder
from cogworks.weights.load import load_components, load_tokenizer, load_transformer, load_variant
from cogworks.weights.mapping import lazy_state
from cogworks.weights.maps import sat
from cogworks.weights.pickles import read_tensors
from cogworks.weights.save import Content, write_sat
from cogworks.weights.source import open_folder
from cogworks.weights.variant_files import write_variant_file
from helpers.golden_weights import CONFIGS, load_golden
from helpers.small_models import VARIATIONS, diffusers_pipeline, small_spiece

GOLDEN_VAE = VAEConfig(
    widths=(32, 64, 32, 32),
    latent_channels=4,
    layers_per_block=1,
    norm_groups=32,
    scaling_factor=0.7,
    invert_scale_latents=False,
    sample_size=(32, 24),
)


def _golden_variant(name: str) -> Variant:
    return replace(COGVIDEOX_5B, name=name, hub_id=None, transformer=CONFIGS[name], vae=GOLDEN_VAE)


def _sat_folder(folder: Path, name: str, beside: dict[str, Tensor] | None = None) -> Path:
    """A SAT folder as SAT itself lays it out, from the goldens."""
    states = folder / "transformer" / "1000" / "mp_rank_00_model_states.pt"
    states.parent.mkdir(parents=True)
    weights = {sat.TRANSFORMER_PREFIX + key: t for key, t in load_golden(f"dit_{name}.weights").items()}
    torch.save({"module": weights | (beside or {}), "iteration": 1000}, states)
    (folder / "transformer" / "latest").write_text("1000")
    (folder / "vae").mkdir()
    vae = load_golden("vae.weights")
    torch.save({"state_dict": {**vae, "loss.logvar": torch.zeros(())}}, folder / "vae" / "3d-vae.pt")
    write_variant_file(folder, _golden_variant(name))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_goldens_to_diffusers_and_back(name: str, tmp_path: Path) -> None:
    beside = {
        "conditioner.embedders.0.transformer.shared.weight": torch.ones(2, 2),
        "first_stage_model.encoder.conv_in.conv.bias": torch.ones(3),
    }
    source = _sat_folder(tmp_path / "sat", name, beside)
    convert_folder(source, tmp_path / "diffusers", "diffusers")
    convert_folder(tmp_path / "diffusers", tmp_path / "again", "sat")
    again = read_tensors(tmp_path / "again" / "transformer" / "1" / "mp_rank_00_model_states.pt", "module")
    golden = load_golden(f"dit_{name}.weights")
    computed = {"mixins.pos_embed.freqs_cos", "mixins.pos_embed.freqs_sin", "transformer.position_embeddings.weight"}
    assert {key.removeprefix(sat.TRANSFORMER_PREFIX) for key in again} == set(golden) - computed
    for key, tensor in again.items():  # the sin-cos table among them: it is computed again
        assert torch.equal(tensor.read(), golden[key.removeprefix(sat.TRANSFORMER_PREFIX)]), key
    vae = read_tensors(tmp_path / "again" / "vae" / "3d-vae.pt", "state_dict")
    expected = load_golden("vae.weights")
    assert set(vae) == set(expected)
    assert all(torch.equal(vae[key].read(), tensor) for key, tensor in expected.items())
    assert (tmp_path / "again" / "transformer" / "latest").read_text() == "1"


@pytest.mark.parametrize("variation", VARIATIONS)
def test_diffusers_to_sat_and_back_gives_the_same_files(variation: str, tmp_path: Path) -> None:
    diffusers_pipeline(variation).save_pretrained(tmp_path / "theirs")
    convert_folder(tmp_path / "theirs", tmp_path / "one", "diffusers")
    convert_folder(tmp_path / "one", tmp_path / "sat", "sat")
    convert_folder(tmp_path / "sat", tmp_path / "two", "diffusers")
    files = sorted(str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 13
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", files, shallow=False) == (files, [], [])
    for name in ("transformer", "vae"):
        weights = f"{name}/diffusion_pytorch_model.safetensors"
        theirs, ours = (load_file(tmp_path / folder / weights) for folder in ("theirs", "one"))
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@torch.no_grad()
def test_a_sat_folder_gives_the_golden_output(tmp_path: Path) -> None:
    folder = open_folder(_sat_folder(tmp_path / "m", "i2v15_rope_slice_ofs"))
    network = load_transformer(folder, load_variant(folder))
    io = load_golden("dit_i2v15_rope_slice_ofs.io")
    latents = torch.cat([io["in.x"], io["in.concat"]], dim=2).transpose(1, 2)
    result = network(latents, io["in.timesteps"], io["in.context"], io["in.ofs"].expand(2)).transpose(1, 2)
    torch.testing.assert_close(result, io["out.output"], atol=1e-5, rtol=0)  # golden README


def test_a_whole_model_goes_through_sat(tmp_path: Path) -> None:
    diffusers_pipeline("5b").save_pretrained(tmp_path / "theirs")
    convert_folder(tmp_path / "theirs", tmp_path / "sat", "sat")
    before, after = load_components(tmp_path / "theirs"), load_components(tmp_path / "sat")
    assert after.folder.layout == "sat"
    assert after.variant == before.variant
    pairs = [(before.transformer, after.transformer), (before.vae, after.vae)]
    pairs.append((before.load_text_encoder(), after.load_text_encoder()))
    for one, two in pairs:
        assert all(torch.equal(two.state_dict()[key], tensor) for key, tensor in one.state_dict().items())
    prompts = ["a red circle", "🎬 ﬁ"]
    assert torch.equal(after.tokenizer.encode(prompts, 16), before.tokenizer.encode(prompts, 16))


@pytest.mark.parametrize("variant", PUBLISHED.values(), ids=list(PUBLISHED))
def test_the_published_models_are_recognised_by_shape(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAT files without `cogworks.json`, at full size: headers only."""
    from cogworks.weights import sat_state
    from cogworks.weights.components import empty_transformer, empty_vae
    from cogworks.weights.mapping import convert, reverse

    def states(*_path: object) -> dict[str, object]:
        ours = lazy_state(empty_transformer(variant).state_dict())
        state = convert(ours, reverse(sat.transformer_rules(variant.transformer)), origin="ours")
        tables = {"sincos": [sat.POSITION_TABLE], "learned": ["mixins.pos_embed.freqs_cos"]}
        extra = torch.empty(1, 17776, 1920, device="meta")
        return {**state, **lazy_state(dict.fromkeys(tables.get(variant.transformer.position_table, []), extra))}

    def vae(*_path: object) -> dict[str, object]:
        return convert(lazy_state(empty_vae(variant).state_dict()), reverse(sat.vae_rules(4)), origin="ours")

    monkeypatch.setattr(sat_state, "open_sat_transformer", states)
    monkeypatch.setattr(sat_state, "open_sat_vae", vae)
    files = sat_state.SatFiles(tmp_path, tmp_path / "t.pt", tmp_path / "v.pt", None)
    expected = replace(variant, transformer=replace(variant.transformer, norm_out_eps=1e-6))
    assert sat_state.infer_sat_variant(files) == expected


def test_shapes_of_a_small_sat_model_are_inferred(tmp_path: Path) -> None:
    source = _sat_folder(tmp_path / "mine", "t2v15_rope_slice")
    (source / "cogworks.json").unlink()
    variant = load_variant(open_folder(source))
    config = CONFIGS["t2v15_rope_slice"]
    assert variant.name == "mine"
    assert variant.hub_id is None
    unknowable = {"text_tokens": 5, "sample_size": config.sample_size, "sample_frames": config.sample_frames}
    assert replace(variant.transformer, **unknowable) == config
    assert (variant.vae.widths, variant.vae.layers_per_block, variant.vae.latent_channels) == ((32, 64, 32, 32), 1, 4)


def test_what_is_not_cogvideox_is_an_error(tmp_path: Path) -> None:
    states = tmp_path / "1" / "mp_rank_00_model_states.pt"
    states.parent.mkdir()
    torch.save({"module": {"model.diffusion_model.some.weight": torch.ones(1)}}, states)
    (tmp_path / "latest").write_text("1")
    with pytest.raises(WeightsError, match=r"does not look like CogVideoX: no tensor 'mixins.patch_embed.proj.weight'"):
        convert_folder(tmp_path, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = _sat_folder(tmp_path / "sat", "t2v_rope")
    variant = _golden_variant("t2v_rope")
    write_variant_file(source, replace(variant, transformer=replace(variant.transformer, num_layers=4)))
    with pytest.raises(WeightsError, match=r"missing: .*transformer\.layers\.3"):
        convert_folder(source, tmp_path / "out", "diffusers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sat"]


def test_parts_may_be_missing(tmp_path: Path) -> None:
    """A SAT fine-tune is often a transformer alone."""
    variant = replace(TINY, transformer=replace(TINY.transformer, num_layers=1))
    network = Transformer(variant.transformer)
    write_sat(tmp_path / "sat", Content(variant, transformer=lazy_state(network.state_dict())))
    with pytest.raises(WeightsError, match=r"has no VAE: put it at vae/3d-vae.pt"):
        load_components(tmp_path / "sat")
    convert_folder(tmp_path / "sat", tmp_path / "out", "diffusers")
    folder = open_folder(tmp_path / "out")
    assert load_variant(folder) == variant
    state = load_transformer(folder, variant).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    assert not (tmp_path / "out" / "text_encoder").exists()


def test_the_tokenizer_of_a_sat_folder(tmp_path: Path) -> None:
    write_sat(tmp_path / "sat", Content(TINY, tokenizer=Tokenizer(small_spiece())))
    folder = tmp_path / "sat" / "t5-v1_1-xxl"
    assert (folder / "spiece.model").read_bytes() == small_spiece()
    (folder / "config.json").write_text("{}")
    (tmp_path / "sat" / "latest").write_text("1")
    (tmp_path / "sat" / "1").mkdir()
    (tmp_path / "sat" / "1" / "mp_rank_00_model_states.pt").touch()
    assert len(load_tokenizer(open_folder(tmp_path / "sat"))) == len(Tokenizer(small_spiece()))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="to 'diffusers' or 'sat', not to 'comfy'"):
        convert_folder(tmp_path, tmp_path / "out", "comfy")  # type: ignore[arg-type]
