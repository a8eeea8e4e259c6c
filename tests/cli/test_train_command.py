"""`cogworks train`: recipe, overrides and streams. What a run does is tested in tests/training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogworks.config.recipe import load_recipe

Run = Callable[..., Any]
RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = RECIPES / "tiny-vae.yaml"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_print_config_is_a_whole_recipe(run: Run, recipe: Path) -> None:
    ran = run("train", recipe, "steps=7", "data.fps=4", "--print-config")
    assert (ran.code, ran.err) == (0, "")
    values = yaml.safe_load(ran.out)
    assert (values["steps"], values["data"]["fps"]) == (7, 4)
    Path("printed.yaml").write_text(ran.out)
    assert load_recipe(Path("printed.yaml"), []) == load_recipe(recipe, ["steps=7", "data.fps=4"])
    assert json.loads(run("train", recipe, "steps=7", "data.fps=4", "--print-config", "--json").out) == values


@pytest.mark.parametrize(
    ("override", "words"), [("stepz=7", "did you mean 'steps'?"), ("steps=0", "steps"), ("steps", "key=value")]
)
def test_a_wrong_override(run: Run, override: str, words: str) -> None:
    ran = run("train", RECIPE, override, "--print-config")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_only_the_folder_of_the_model_is_on_stdout(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(recipe: Any, on_step: Any) -> Path:
        print("Epoch 0", file=sys.stdout)
        return recipe.output / "model"

    monkeypatch.setattr("cogworks.training.run.train", fake)
    ran = run("train", RECIPE, "output=here")
    assert (ran.code, ran.out, ran.err) == (0, "here/model\n", "Epoch 0\n")
    assert json.loads(run("train", RECIPE, "output=here", "--json").out) == {"model": "here/model"}


def test_a_missing_library_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cogworks.training.run", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    ran = run("train", RECIPE, "output=here")
    assert ran.code == 2
    assert "pip install 'cogworks[train]'" in ran.err
