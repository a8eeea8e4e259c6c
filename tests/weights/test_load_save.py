"""Whole models: a folder of diffusers here, a folder of ours in diffusers, dtypes, devices and damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cogworks.errors import WeightsError
from cogworks.weights.load import (
    Components,
    load_components,
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    load_vae,
    load_variant,
)
from cogworks.weights.save import save_pretrained
from cogworks.weights.source import open_folder
from helpers.small_models import TEXT_TOKENS, VARIATIONS, diffusers_pipeline

PROMPTS = ["a red circle moves right", "", "un café ﬁne 🎬 \n now"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder that diffusers saved, one for each variation that is asked for."""
    folders: dict[str, Path] = {}

    def save(variation: str) -> Path:
        if variation not in folders:
            folders[variation] = tmp_path_factory.mktemp(variation)
            diffusers_pipeline(variation).save_pretrained(folders[variation])
        return folders[variation]

    return save


def _save(model: Components, folder: Path, **options: int) -> None:
    parts = {"transformer": model.transformer, "vae": model.vae, "tokenizer": model.tokenizer}
    save_pretrained(folder, model.variant, text_encoder=model.load_text_encoder(), **parts, **options)


def _assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    a, b = ours.state_dict(), theirs.state_dict()
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def _values(component: Any) -> dict[str, Any]:
    """The configuration of a component of diffusers, as JSON would hold it."""
    values = {key: value for key, value in component.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@pytest.mark.parametrize("variation", ["2b", "5b-i2v", "1.5-i2v"])
def test_to_diffusers_and_back(variation: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    model = load_components(saved(variation))
    assert model.variant.takes_image == ("in_channels" in VARIATIONS[variation])
    _save(model, tmp_path / "ours")
    theirs, expected = DiffusionPipeline.from_pretrained(tmp_path / "ours"), diffusers_pipeline(variation)
    assert type(theirs) is type(expected)
    for name in ("transformer", "vae", "text_encoder"):
        _assert_same_weights(getattr(theirs, name), getattr(expected, name))
    assert theirs.tokenizer(PROMPTS).input_ids == expected.tokenizer(PROMPTS).input_ids
    for name in ("transformer", "vae", "scheduler"):
        assert _values(getattr(theirs, name)) == _values(getattr(expected, name))
    again = load_components(tmp_path / "ours")
    assert again.variant == model.variant
    for name in ("transformer", "vae"):
        _assert_same_weights(getattr(again, name), getattr(model, name))


@torch.no_grad()
def test_a_folder_of_diffusers_gives_the_same_numbers(saved: Callable[[str], Path]) -> None:
    model, theirs = load_components(saved("5b")), diffusers_pipeline("5b")
    ids = model.tokenizer.encode(PROMPTS[:2], TEXT_TOKENS)
    expected_ids = theirs.tokenizer(
        PROMPTS[:2], padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(ids, expected_ids)
    text = model.load_text_encoder()(ids)
    torch.testing.assert_close(text, theirs.text_encoder(ids)[0], atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(2)
    latents, timesteps = torch.randn(2, 4, 3, 8, 8, generator=generator), torch.tensor([999, 19])
    rope = theirs._prepare_rotary_positional_embeddings(64, 64, 3, torch.device("cpu"))
    expected = theirs.transformer(latents.transpose(1, 2), text, timesteps, image_rotary_emb=rope, return_dict=False)[
        0
    ].transpose(1, 2)
    result = model.transformer(latents, timesteps, text)
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)  # as in test_maps_parity
    swapped = model.transformer(latents, timesteps.flip(0), text)
    assert (swapped - expected).abs().max() > 1e-3  # negative control
    pixels = model.vae.decode(latents[:1])
    torch.testing.assert_close(pixels, theirs.vae.decode(latents[:1]).sample, atol=1e-4, rtol=1e-5)


def test_loaded_networks_are_ready_for_use(saved: Callable[[str], Path]) -> None:
    model = load_components(saved("5b"))
    for network in (model.transformer, model.vae, model.load_text_encoder()):
        assert not network.training
        assert all(not t.is_meta for t in [*network.parameters(), *network.buffers()])
        assert all(p.requires_grad for p in network.parameters())


def test_dtype_and_the_text_encoder_in_half_precision(saved: Callable[[str], Path]) -> None:
    model = load_components(saved("5b"), dtype=torch.float16)
    for network in (model.transformer, model.vae):
        assert {p.dtype for p in network.parameters()} == {torch.float16}
    encoder = model.load_text_encoder(dtype=torch.float16)
    kept = {name for name, p in encoder.named_parameters() if p.dtype == torch.float32}
    assert kept == {f"blocks.{i}.mlp.down.weight" for i in range(2)}
    brain = model.load_text_encoder(dtype=torch.bfloat16)
    assert {p.dtype for p in brain.parameters()} == {torch.bfloat16}


def test_stored_dtype_is_kept_where_none_is_asked_for(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_components(saved("5b"), dtype=torch.float16)
    encoder = model.load_text_encoder(dtype=torch.float16)
    save_pretrained(tmp_path / "m", model.variant, transformer=model.transformer, vae=model.vae, text_encoder=encoder)
    folder = open_folder(tmp_path / "m")
    assert next(load_transformer(folder, model.variant).parameters()).dtype == torch.float16
    dtypes = {name: p.dtype for name, p in load_text_encoder(folder, model.variant).named_parameters()}
    assert dtypes == {name: p.dtype for name, p in encoder.named_parameters()}


def test_the_device_is_honoured(saved: Callable[[str], Path]) -> None:
    folder = open_folder(saved("5b"))
    vae = load_vae(folder, load_variant(folder), device="meta")
    assert {p.device.type for p in vae.parameters()} == {"meta"}


def test_shards(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_components(saved("5b"))
    _save(model, tmp_path / "m", shard_bytes=50_000)
    assert len(list((tmp_path / "m" / "transformer").glob("*-of-*.safetensors"))) > 1
    _assert_same_weights(load_components(tmp_path / "m").transformer, model.transformer)


def test_a_text_encoder_from_another_model(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_components(saved("5b"))
    save_pretrained(tmp_path / "bare", model.variant, transformer=model.transformer, vae=model.vae)
    with pytest.raises(WeightsError, match="has no tokenizer"):
        load_components(tmp_path / "bare")
    mixed = load_components(tmp_path / "bare", text_encoder=saved("5b"))
    _assert_same_weights(mixed.load_text_encoder(), model.load_text_encoder())
    wide = replace(
        model.variant,
        text_encoder=replace(model.variant.text_encoder, width=64),
        transformer=replace(model.variant.transformer, text_width=64),
    )
    save_pretrained(tmp_path / "wide", wide)
    with pytest.raises(WeightsError, match=r"32 wide, wide takes 64|32 wide, .* takes 64"):
        load_components(tmp_path / "wide", text_encoder=saved("5b"))


def test_an_existing_folder_is_not_overwritten(saved: Callable[[str], Path]) -> None:
    model = load_components(saved("5b"))
    with pytest.raises(WeightsError, match="exists and is not empty"):
        save_pretrained(saved("5b"), model.variant, vae=model.vae)


@pytest.fixture
def broken(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to be damaged."""
    _save(load_components(saved("5b")), tmp_path / "m")
    return tmp_path / "m"


def test_a_truncated_file_names_itself(broken: Path) -> None:
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"vae/diffusion_pytorch_model\.safetensors is damaged"):
        load_components(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj_out.bias": None}, "1 missing: proj_out.bias"),
        ({"transformer_blocks.1.attn1.to_k.weight": None}, "1 missing: transformer_blocks.1.attn1.to_k.weight"),
        ({"mystery.weight": torch.zeros(1)}, "1 not known to this model: mystery.weight"),
        ({"transformer_blocks.9.norm1.norm.bias": torch.zeros(64)}, "not known to this model: transformer_blocks.9"),
        ({"proj_out.bias": torch.zeros(3)}, r"proj_out.bias is \(3,\), expected \(16,\)"),
    ],
)
def test_weights_that_do_not_fit_name_file_and_key(
    broken: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = {key: tensor for key, tensor in {**load_file(path), **change}.items() if tensor is not None}
    path.unlink()
    save_file(state, path)
    with pytest.raises(
        WeightsError, match=rf"m/transformer/diffusion_pytorch_model\.safetensors does not hold the .*{message}"
    ):
        load_components(broken)


def test_a_missing_or_damaged_tokenizer(broken: Path) -> None:
    spiece = broken / "tokenizer" / "spiece.model"
    spiece.write_bytes(spiece.read_bytes()[:100])
    with pytest.raises(WeightsError, match="tokenizer: the tokenizer is not a sentencepiece model"):
        load_tokenizer(open_folder(broken))
    spiece.unlink()
    with pytest.raises(WeightsError, match=r"has no tokenizer: expected spiece\.model or tokenizer\.json"):
        load_tokenizer(open_folder(broken))
    (broken / "tokenizer" / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 1}}}')
    with pytest.raises(WeightsError, match="is not a T5 tokenizer"):
        load_tokenizer(open_folder(broken))


def test_a_quantised_file_is_not_taken_for_weights(broken: Path) -> None:
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    state = {key: t.to(torch.float8_e4m3fn) for key, t in load_file(path).items()}
    path.unlink()
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"is stored in torch.float8_e4m3fn; choose a dtype"):
        load_components(broken)
