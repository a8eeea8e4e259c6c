"""What `train --dry-run`, `train --json` and `plan RECIPE` print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "lora.yaml"
    values = {
        "version": 1,
        "kind": "transformer",
        "model": "tiny",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "batch_size": 1,
        "threads": 1,
        "optimizer": {"learning_rate": 0.001},
        "lora": {"rank": 1, "targets": ["blocks.0.attention.out"]},
        "data": {"size": 16, "frames": 1},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_dry_run_says_what_a_step_takes_and_leaves_nothing(run: Run, recipe: Path) -> None:
    ran = run("train", recipe, "--dry-run")
    assert ran.code == 0, ran.err
    assert "learns 384 of" in ran.out
    assert "33 tokens a sample" in ran.out
    assert "for 2 steps" in ran.out
    assert not (recipe.parent / "run").exists()
    values = json.loads(run("train", recipe, "--dry-run", "--json").out)
    assert values["trained"] == 384
    assert values["seconds"] == pytest.approx(2 * values["step_seconds"])


def test_progress_as_events(run: Run, recipe: Path) -> None:
    ran = run("train", recipe, "--json")
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    steps = [(each["done"], each["total"]) for each in events if each["event"] == "progress"]
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert {each["phase"] for each in events if each["event"] == "progress"} == {"train"}
    assert json.loads(ran.out) == {"model": str(recipe.parent / "run/lora/pytorch_lora_weights.safetensors")}


def test_the_plan_of_a_recipe(run: Run, recipe: Path) -> None:
    ran = run("plan", recipe, "batch_size=2")
    assert (ran.code, ran.err) == (0, "")
    assert "384 of 7,0" in ran.out
    assert "2 samples a step, 33 tokens a sample" in ran.out
    assert "it fits" in ran.out
    values = json.loads(run("plan", recipe, "--json").out)
    assert values["trained"] == 384
    assert values["optimizer"] == 2 * values["gradients"] == 8 * 384
    assert values["fits"]
    assert values["step_seconds"] > 0
    assert not (recipe.parent / "run").exists()


def test_a_plan_that_does_not_fit(run: Run, recipe: Path) -> None:
    ran = run("plan", recipe, "--memory", "10MB")
    assert ran.code == 1
    assert "this run needs" in ran.err
    assert "may hold 10.0 MB" in ran.err


def test_options_of_videos_are_refused_beside_a_recipe(run: Run, recipe: Path) -> None:
    ran = run("plan", recipe, "--frames", "9")
    assert (ran.code, ran.out) == (2, "")
    assert "is for videos" in ran.err
