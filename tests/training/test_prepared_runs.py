"""Whole runs on prepared clips: they need no text encoder and no VAE, and go on where they stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.training.run import train
from cogworks.training.transformer import start
from helpers.little_clips import save_clip
from helpers.small_folder import save_small

pytestmark = pytest.mark.slow


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "cache"))
    for number in range(5):
        save_clip(tmp_path / "clips" / f"{number}.mp4", caption=f"clip {number}")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "clips" / "broken.txt").write_text("a broken clip")
    return {
        "version": 1,
        "kind": "transformer",
        "model": str(save_small(tmp_path / "model")),
        "output": str(tmp_path / "run"),
        "prepared": str(tmp_path / "prepared"),
        "steps": 4,
        "batch_size": 2,
        "threads": 1,
        "optimizer": {"learning_rate": 0.01},
        "learning_rate": {"warmup_steps": 0},
        "data": {"kind": "clips", "source": str(tmp_path / "clips"), "sizes": [[5, 16, 16]]},
        "lora": {"rank": 2},
    }


def run(values: dict[str, Any], **changes: Any) -> dict[str, torch.Tensor]:
    recipe = parse_recipe({**values, **changes}, "test")
    assert isinstance(recipe, TransformerRecipe)
    return load_file(train(recipe))


def test_a_run_that_goes_on_ends_as_an_unbroken_one(values: dict[str, Any], tmp_path: Path) -> None:
    unbroken = run(values)
    run(values, output=str(tmp_path / "broken"), steps=2)
    resumed = run(values, output=str(tmp_path / "broken"))
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)
    # Negative control: other batches are another result.
    other = run(values, output=str(tmp_path / "other"), seed=1)
    assert not all(torch.equal(other[key], unbroken[key]) for key in unbroken)


def test_networks_that_are_not_needed_are_not_read(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(values)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a network was read")

    monkeypatch.setattr(start, "load_vae", refuse)
    monkeypatch.setattr(start, "load_text_encoder", refuse)
    again = run(values, output=values["output"] + "2")
    assert all(torch.equal(again[key], first[key]) for key in first)


def test_a_lora_learns_on_a_base_in_8_bits(values: dict[str, Any], tmp_path: Path) -> None:
    exact = run(values)
    rough = run(values, output=str(tmp_path / "int8"), lora={"rank": 2, "base_dtype": "int8"})
    assert rough.keys() == exact.keys()
    up = [key for key in exact if ".lora_B." in key or "lora_up" in key]
    assert up
    assert all(rough[key].abs().max() > 0 for key in up)
    off = torch.stack([(rough[key] - exact[key]).norm() / exact[key].norm() for key in up])
    assert 0 < off.max() < 0.5, off  # near, and not the same: AdamW's first steps are signs
    checkpoints = list((tmp_path / "int8" / "checkpoints").glob("*.ckpt"))
    held = torch.load(checkpoints[0], weights_only=True)["state_dict"]
    assert all("lora" in key for key in held)
