"""Reading LoRA files: where alpha is from, what may be a LoRA, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogworks.errors import WeightsError
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_write import write_lora
from cogworks.weights.maps.lora import Dialect
from helpers.lora_factors import assert_same_pairs, attention_pairs, random_pair, small_transformer


def _alphas(tmp_path: Path, config: dict[str, object] | None, **tensors: Tensor) -> dict[str, float]:
    """alpha of layer 0 q and layer 1 out of a file of rank 4 with this PEFT configuration."""
    names = [f"transformer_blocks.{n}" for n in ("0.attn1.to_q", "1.attn1.to_out.0")]
    state = {f"{n}.lora_{s}.weight": torch.ones((4, 8) if s == "A" else (8, 4)) for n in names for s in "AB"}
    metadata = None if config is None else {"lora_adapter_metadata": json.dumps(config)}
    save_file({**state, **tensors}, tmp_path / "x.safetensors", metadata=metadata)
    return {pair.path: pair.alpha for pair in read_lora(tmp_path / "x.safetensors").pairs}


Q, OUT = "blocks.0.attention.qkv", "blocks.1.attention.out"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (4.0, 4.0)),
        ({"r": 4, "lora_alpha": 2}, (2.0, 2.0)),
        ({"transformer.r": 4, "transformer.lora_alpha": 2}, (2.0, 2.0)),
        ({"lora_alpha": 2, "alpha_pattern": {"to_q": 7}}, (7.0, 2.0)),
        ({"lora_alpha": 2, "alpha_pattern": {"^transformer_blocks.1.attn1.to_out.0": 7.5}}, (2.0, 7.5)),
        ({"lora_alpha": 2, "alpha_pattern": {"o_q": 7}}, (2.0, 2.0)),  # whole parts of a name alone
        ({"lora_alpha": 2, "use_rslora": True}, (4.0, 4.0)),  # 2 / sqrt(4) is 4 / 4
    ],
)
def test_alpha_of_peft_configurations(
    tmp_path: Path, config: dict[str, object] | None, expected: tuple[float, float]
) -> None:
    assert _alphas(tmp_path, config) == dict(zip((Q, OUT), expected, strict=True))


def test_alpha_beside_the_factors_wins(tmp_path: Path) -> None:
    alpha = {"transformer_blocks.0.attn1.to_q.alpha": torch.tensor(9, dtype=torch.int64)}
    assert _alphas(tmp_path, {"lora_alpha": 2}, **alpha) == {Q: 9.0, OUT: 2.0}


def test_a_peft_folder(tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", attention_pairs(small_transformer()), "diffusers")
    state = load_file(tmp_path / "a.safetensors")
    folder = tmp_path / "adapter"
    folder.mkdir()
    renamed = {key.replace("transformer.", "base_model.model.", 1): tensor for key, tensor in state.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    assert {pair.alpha for pair in read_lora(folder).pairs} == {6.0}


def test_a_pickle_with_plain_numbers_and_harmful_objects(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    pairs = attention_pairs(small_transformer())
    write_lora(tmp_path / "a.safetensors", pairs, "kohya")
    state: dict[str, object] = dict(load_file(tmp_path / "a.safetensors"))
    alphas = {key: float(value) for key, value in state.items() if key.endswith(".alpha")}  # type: ignore[arg-type]
    torch.save({"state_dict": {**state, **alphas}, "args": Harmful(), "epoch": 3}, tmp_path / "a.bin")
    assert_same_pairs(read_lora(tmp_path / "a.bin").pairs, pairs)
    assert not (tmp_path / "ran").exists()


def broken(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], dialect: Dialect = "diffusers") -> Path:
    path = tmp_path / "broken.safetensors"
    write_lora(path, attention_pairs(small_transformer()), dialect)
    state = load_file(path)
    change(state)
    save_file(state, path)
    return path


Q0 = "transformer.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update({"te.lora_A.weight": torch.ones(1)}), "1 keys are not known: te.lora_A.weight"),
        (lambda s: s.update({f"{Q0}.lora_B.bias": torch.ones(1)}), r"not known: .*to_q\.lora_B\.bias"),
        (lambda s: s.update({f"{Q0}.lora_magnitude_vector": torch.ones(1)}), "lora_magnitude_vector"),
        (lambda s: s.update({f"{Q0}.lora_A.other.weight": torch.ones(3, 64)}), "not known"),
        (lambda s: s.pop(f"{Q0}.lora_A.weight"), r"lacks one of the two factors of blocks\.0\.attention\.qkv:q"),
        (lambda s: s.update({f"{Q0}.lora_A.weight": torch.ones(5, 64)}), "do not go together"),
        (lambda s: s.update({f"{Q0}.lora_A.weight": torch.ones(3, 64).int()}), "expected floating-point numbers"),
        (lambda s: s.update({f"{Q0}.alpha": torch.tensor(float("nan"))}), "expected a finite number"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        read_lora(broken(tmp_path, change))


def test_several_loras_in_one_file(tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", attention_pairs(small_transformer()), "diffusers")
    state = load_file(tmp_path / "a.safetensors")
    both = {k.replace(".weight", f".{n}.weight"): t.clone() for k, t in state.items() for n in ("style", "motion")}
    save_file(both, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"several LoRAs \(motion, style\)"):
        read_lora(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(2, 2)}, "a LoRA of another network"),
        ({"model.layers.0.weight": torch.ones(2, 2)}, "is no LoRA"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(2, 2)}, "not known"),
        ({"transformer.layers.0.cross_attention.dense.matrix_A.0": torch.ones(2, 2)}, "not known"),
    ],
)
def test_files_of_other_networks(tmp_path: Path, state: dict[str, Tensor], match: str) -> None:
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=match):
        read_lora(tmp_path / "other.safetensors")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"no")
    (tmp_path / "style.txt").write_text("no")
    for name, match in (
        ("stile.safetensors", "did you mean .*style.safetensors"),
        ("style.safetensors", "damaged"),
        ("style.txt", "is no weight file"),
    ):
        with pytest.raises(WeightsError, match=match):
            read_lora(tmp_path / name)
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"several files .*name the file"):
        read_lora(tmp_path)


@pytest.mark.parametrize("config", [{"lora_alpha": "two"}, {"alpha_pattern": 3}, {"alpha_pattern": {"(": 1}}])
def test_configurations_that_make_no_sense(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="cannot be understood"):
        _alphas(tmp_path, config)


@pytest.mark.parametrize(
    "entry",
    [
        "x",
        {"alpha": "2", "dtype": "float32"},
        {"alpha": 2, "dtype": "int8"},
        {"alpha": float("nan"), "dtype": "float32"},
    ],
)
def test_notes_of_ours_that_make_no_sense(tmp_path: Path, entry: object) -> None:
    pair = random_pair(small_transformer(), "blocks.0.attention.out")
    write_lora(tmp_path / "a.pt", [pair], "sat")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert json.loads(content["cogworks_lora"]) == {pair.target: {"alpha": 2.0, "dtype": "float32"}}
    torch.save({**content, "cogworks_lora": json.dumps({pair.target: entry})}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="damaged: what it says of alpha"):
        read_lora(tmp_path / "b.pt")
    torch.save({**content, "cogworks_lora": "{"}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="is no JSON object"):
        read_lora(tmp_path / "b.pt")


def test_a_dora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="DoRA"):
        _alphas(tmp_path, {"use_dora": True})
