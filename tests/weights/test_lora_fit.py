"""Whether a LoRA fits a model, what it was made for, and merging it into the files of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogworks.config.variants import COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_I2V, TINY
from cogworks.errors import WeightsError
from cogworks.extensions.attach import attach
from cogworks.extensions.lora import StoredLoRA, merge
from cogworks.nn.low_rank import LowRank
from cogworks.weights.convert import convert_folder
from cogworks.weights.load import load_components
from cogworks.weights.lora import LoRAFile
from cogworks.weights.lora_fit import check_fit, made_for, merge_folder
from helpers.lora_factors import CONFIG, attention_pairs, inputs, random_pair, small_transformer
from helpers.random_models import save_random

VARIANT = replace(
    TINY,
    name="random",
    transformer=CONFIG,
    vae=replace(TINY.vae, widths=(4, 4, 4, 4)),
    text_encoder=replace(TINY.text_encoder, width=16, head_width=8, num_heads=2, num_layers=1, mlp_width=16),
)


def of_width(width: int, layers: int) -> tuple[LowRank, ...]:
    a, b = torch.zeros(2, width), torch.zeros(width, 2)
    return tuple(LowRank(f"blocks.{layer}.attention.out", (), a, b, 1.0) for layer in range(layers))


def as_file(*pairs: LowRank) -> LoRAFile:
    return LoRAFile(Path("style.safetensors"), "diffusers", pairs)


def test_what_it_was_made_for() -> None:
    small = made_for(of_width(1920, 30))
    assert (small.num_layers, small.width, small.variants) == (30, 1920, ("cogvideox-2b",))
    assert str(small) == "30 layers of width 1920 (cogvideox-2b)"
    large = made_for(of_width(3072, 42))
    assert len(large.variants) == 4
    assert made_for(of_width(3072, 7)).variants == large.variants  # the last layers may be left out
    assert made_for(of_width(77, 3)).variants == ()
    odd = LowRank("proj_out", (), torch.zeros(2, 5), torch.zeros(4, 2), 1.0)
    assert str(made_for([odd])) == "a model"


def test_what_fits_passes() -> None:
    check_fit(as_file(*of_width(1920, 30)), COGVIDEOX_2B.transformer)
    check_fit(as_file(*of_width(3072, 42)), COGVIDEOX_5B.transformer)
    check_fit(as_file(*of_width(3072, 3)), COGVIDEOX_5B_I2V.transformer)
    check_fit(as_file(*attention_pairs(small_transformer())), CONFIG)


def test_another_width_is_one_sentence_with_both_models() -> None:
    with pytest.raises(WeightsError) as caught:
        check_fit(as_file(*of_width(1920, 30)), COGVIDEOX_5B.transformer)
    assert str(caught.value) == (
        "style.safetensors is a LoRA for another model: it was made for 30 layers of width 1920 (cogvideox-2b), and "
        "this one has 42 layers of width 3072 (30 of 30 targets do not fit: blocks.0.attention.out is 3072 -> 3072, "
        "its LoRA is 1920 -> 1920; ...)"
    )


def test_layers_and_linears_that_are_not_there() -> None:
    deep = as_file(*of_width(CONFIG.width, 4))
    with pytest.raises(WeightsError, match=r"2 of 4 targets do not fit: there is no blocks\.2\.attention\.out"):
        check_fit(deep, CONFIG)
    ofs = LowRank("ofs_embed.up", (), torch.zeros(2, 8), torch.zeros(8, 2), 1.0)
    with pytest.raises(WeightsError, match=r"there is no ofs_embed\.up"):
        check_fit(as_file(ofs), CONFIG)
    rows = random_pair(small_transformer(), "blocks.0.attention.out")
    with pytest.raises(WeightsError, match="has no row block q"):
        check_fit(as_file(replace(rows, rows=("q",))), CONFIG)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge") / "model"
    torch.manual_seed(0)
    save_random(folder, VARIANT)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_a_merged_folder_is_the_model_with_the_lora_merged(tmp_path: Path, model: Path, layout: str) -> None:
    source = model
    if layout == "sat":
        source = tmp_path / "source"
        convert_folder(model, source, "sat")
    network = load_components(source).transformer
    plain = network(*inputs())
    one, two = (as_file(*attention_pairs(network, seed=seed)) for seed in (1, 2))
    modulation = as_file(random_pair(network, "modulations.1", ("video_gate_mlp", "text_gate_mlp")))
    merge_folder(source, [(one, 0.8), (two, -0.5), (modulation, 1.0)], tmp_path / "merged")
    merged = load_components(tmp_path / "merged")
    assert merged.folder.layout == layout
    loras = [
        StoredLoRA(lora.pairs, scale=scale, name=f"l{number}")
        for number, (lora, scale) in enumerate([(one, 0.8), (two, -0.5), (modulation, 1.0)])
    ]
    with attach(network, *loras):
        attached = network(*inputs())
        merge(network)
        live = network(*inputs())
    # The scale of an attached LoRA is held in float32.
    torch.testing.assert_close(merged.transformer(*inputs()), live, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.transformer(*inputs()), attached, atol=1e-5, rtol=0)
    assert (attached - plain).abs().max() > 0.01


def test_merging_leaves_everything_else_bitwise(tmp_path: Path, model: Path) -> None:
    merge_folder(model, [(as_file(*attention_pairs(small_transformer())), 1.0)], tmp_path / "merged")
    names = {path.relative_to(model) for path in model.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(tmp_path / "merged") for path in (tmp_path / "merged").rglob("*") if path.is_file()
    }
    changed = [name for name in names if (model / name).read_bytes() != (tmp_path / "merged" / name).read_bytes()]
    assert changed == [Path("transformer/diffusion_pytorch_model.safetensors")]
    before, after = (load_file(folder / changed[0]) for folder in (model, tmp_path / "merged"))
    assert {key.split("attn1.")[1] for key in before if not torch.equal(before[key], after[key])} == {
        "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"
    }  # fmt: skip


def test_a_lora_that_does_not_fit_leaves_no_folder(tmp_path: Path, model: Path) -> None:
    with pytest.raises(WeightsError, match="for another model"):
        merge_folder(model, [(as_file(*of_width(1920, 30)), 1.0)], tmp_path / "merged")
    assert not any(tmp_path.iterdir())
