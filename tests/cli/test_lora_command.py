"""`cogworks lora`: looking into files, merging into a model, converting for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.config.request import parse_lora
from cogworks.extensions.attach import attach
from cogworks.extensions.lora import StoredLoRA, merge
from cogworks.models.transformer import Transformer
from cogworks.nn.low_rank import LowRank
from cogworks.weights.load import load_transformer, load_variant
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_write import write_lora
from cogworks.weights.source import resolve
from helpers.lora_factors import assert_same_pairs, attention_pairs

Run = Callable[..., Any]


def transformer_of(model: str) -> Transformer:
    folder = resolve(Path(model))
    return load_transformer(folder, load_variant(folder), dtype=torch.float32)


@pytest.fixture
def lora(model: str, tmp_path: Path) -> tuple[LowRank, ...]:
    """`style.safetensors` in the current folder, for `model`."""
    pairs = attention_pairs(transformer_of(model), num_layers=1)
    write_lora(tmp_path / "style.safetensors", pairs, "diffusers")
    return pairs


def test_inspect(run: Run, lora: tuple[LowRank, ...]) -> None:
    ran = run("lora", "inspect", "style.safetensors")
    assert (ran.code, ran.err) == (0, "")
    rows = {line[:14].strip(): line[14:] for line in ran.out.splitlines()}
    assert rows["dialect"] == "diffusers"
    assert rows["factor pairs"] == "4"
    assert rows["ranks"] == "3"
    assert rows["alphas"] == "2"
    assert rows["targets"].startswith("blocks.*.attention.qkv:q (1), ")
    assert rows["made for"] == "no model that is known here"
    found = json.loads(run("lora", "inspect", "style.safetensors", "--json").out)
    assert found["width"] == 64
    assert found["layers"] == 1
    assert found["parameters"] == sum(pair.lora_a.numel() + pair.lora_b.numel() for pair in lora)


def test_inspect_names_the_models_that_it_was_made_for(run: Run) -> None:
    wide = [LowRank("blocks.29.attention.out", (), torch.zeros(1, 1920), torch.zeros(1920, 1), 1.0)]
    write_lora("big.safetensors", wide, "kohya")
    assert json.loads(run("lora", "inspect", "big.safetensors", "--json").out)["made_for"] == ["cogvideox-2b"]


@torch.no_grad()
def test_merge_at_a_scale(run: Run, model: str, lora: tuple[LowRank, ...]) -> None:
    ran = run("lora", "merge", model, "style.safetensors:0.5", "merged", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"model": model, "lora": "style.safetensors", "scale": 0.5, "path": "merged"}
    network, merged = transformer_of(model), transformer_of("merged")
    name = "blocks.0.attention.qkv"
    with attach(network, StoredLoRA(lora, scale=0.5)):
        merge(network)
        expected = network.get_submodule(name).merged_weight
        assert torch.equal(merged.get_submodule(name).weight, expected)
    assert not torch.equal(network.get_submodule(name).weight, expected)


def test_convert_there_and_back(run: Run, lora: tuple[LowRank, ...]) -> None:
    source = "style.safetensors"
    for dialect, target in (("sat", "a.pt"), ("kohya", "b.safetensors"), ("diffsynth", "c.safetensors")):
        ran = run("lora", "convert", source, target, "--to", dialect)
        assert (ran.code, ran.out) == (0, f"{target}\n"), ran.err
        assert read_lora(target).dialect == dialect
        source = target
    back = run("lora", "convert", source, "back.safetensors", "--to", "diffusers", "--json")
    assert json.loads(back.out)["from"] == "diffsynth"
    assert_same_pairs(read_lora("back.safetensors").pairs, lora)
    assert Path("back.safetensors").read_bytes() == Path("style.safetensors").read_bytes()


def test_convert_replaces_nothing_by_itself(run: Run, lora: tuple[LowRank, ...]) -> None:
    before = Path("style.safetensors").read_bytes()
    ran = run("lora", "convert", "style.safetensors", "style.safetensors", "--to", "kohya")
    assert ran.code == 2
    assert "--force" in ran.err
    assert Path("style.safetensors").read_bytes() == before
    assert run("lora", "convert", "style.safetensors", "style.safetensors", "--to", "kohya", "--force").code == 0
    assert read_lora("style.safetensors").dialect == "kohya"
    Path("folder").mkdir()
    assert "is a folder" in run("lora", "convert", "style.safetensors", "folder", "--to", "kohya").err


def test_convert_for_a_model_that_it_does_not_fit(run: Run, model: str, lora: tuple[LowRank, ...]) -> None:
    write_lora("deep.safetensors", [replace(lora[3], path="blocks.5.attention.out")], "kohya")
    ran = run("lora", "convert", "deep.safetensors", "out.safetensors", "--to", "diffusers", "--model", model)
    assert ran.code == 2
    assert "for another model: it was made for 6 layers of width 64, and this one has 1 layers" in ran.err
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("inspect", "nowhere.safetensors"), "there is no LoRA at nowhere.safetensors"),
        (("inspect", "style.safetensors", "--to", "sat"), "--to"),
        (("convert", "style.safetensors", "out.safetensors", "--to", "sat"), "ends in .pt"),
        (("merge", "tiny", "style.safetensors", "out"), "is a LoRA for another model"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Run, lora: tuple[LowRank, ...], arguments: tuple[str, ...], match: str
) -> None:
    ran = run("lora", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert match in ran.err.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["style.safetensors"]


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        (r"C:\loras\style.safetensors", r"C:\loras\style.safetensors", 1.0),
        (r"C:\loras\style.safetensors:-1e-1", r"C:\loras\style.safetensors", -0.1),
        ("odd:name.safetensors:2", "odd:name.safetensors", 2.0),
        ("odd:name.safetensors", "odd:name.safetensors", 1.0),
    ],
)
def test_paths_with_colons(text: str, path: str, scale: float) -> None:
    use = parse_lora(text)
    assert (str(use.path), use.scale) == (path, scale)
