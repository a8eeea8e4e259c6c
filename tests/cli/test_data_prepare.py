"""`cogworks data prepare`: recipe, overrides and what it prints. What it makes is tested in tests/training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture
def recipe(model: str, tmp_path: Path) -> Path:
    values = {
        "version": 1,
        "kind": "transformer",
        "model": model,
        "output": "run",
        "prepared": "latents",
        "steps": 1,
        "batch_size": 1,
        "threads": 1,
        "clips": 3,
        "optimizer": {"learning_rate": 0.01},
        "data": {"kind": "shapes", "size": 16, "frames": 5},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_it_prepares_once(run: Run, recipe: Path) -> None:
    ran = run("data", "prepare", recipe)
    assert ran.code == 0
    first, *rows = ran.out.splitlines()
    assert first == "latents"
    assert [row.split()[0] for row in rows] == ["clips", "captions", "left", "size", "time"]
    assert "3, 3 of them new" in ran.out
    assert "encoding captions" in ran.err
    assert "encoding clips" in ran.err
    again = json.loads(run("data", "prepare", recipe, "--json").out)
    assert (again["path"], again["clips"], again["new_clips"], again["faults"]) == ("latents", 3, 0, [])
    assert again["bytes"] == sum(path.stat().st_size for path in Path("latents").rglob("*.safetensors"))


def test_an_override_and_progress_for_a_program(run: Run, recipe: Path) -> None:
    ran = run("data", "prepare", recipe, "clips=2", "prepared=elsewhere", "--json")
    assert json.loads(ran.out)["clips"] == 2
    events = [json.loads(line) for line in ran.err.splitlines()]
    told = [event for event in events if event["event"] == "progress" and event["phase"] == "encoding clips"]
    assert [event["done"] for event in told] == [0, 1, 2]
    assert told[1]["seconds_left"] >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips=two"], "clips"),
        (["prepared=null"], "set prepared"),
        (["--workers", "0"], "--workers must be 1 or more"),
    ],
)
def test_what_cannot_be(run: Run, recipe: Path, words: list[str], message: str) -> None:
    ran = run("data", "prepare", recipe, *words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_a_vae_has_nothing_to_prepare(run: Run) -> None:
    ran = run("data", "prepare", Path(__file__).parents[2] / "recipes" / "tiny-vae.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "nothing to prepare" in ran.err
