"""Recipes: every shipped file is valid, and every mistake is one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cogworks.config.recipe import Recipe, load_recipe, parse_recipe
from cogworks.config.training_data import ShapesData
from cogworks.config.variants import VARIANTS
from cogworks.errors import RecipeError

FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path, [])
    assert isinstance(recipe, Recipe)
    assert recipe.variant in VARIANTS or recipe.model is not None


def test_overrides_reach_nested_keys() -> None:
    recipe = load_recipe(FOLDER / "tiny-t2v.yaml", ["steps=7", "data.size=96", "learning_rate.cooldown=0.4"])
    assert isinstance(recipe.data, ShapesData)
    assert (recipe.steps, recipe.data.size, recipe.learning_rate.cooldown) == (7, 96, 0.4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("data.sise=3", "unknown key 'data.sise'; did you mean 'size'?"),
        ("steps=0", "steps: input should be greater than 0, got 0"),
        ("steps", "an override must look like key=value"),
        ("steps.more=3", "steps is a plain value"),
        ("kind=lora", "kind"),
        ("optimizer.lerning_rate=1", "unknown key 'optimizer.lerning_rate'; did you mean 'learning_rate'?"),
        ("optimizer.kind=adamw", "optimizer.matrix_learning_rate belongs to kind muon"),
        ("accumulate=3", "accumulate must divide batch_size, 32; got 3"),
        ("prepared=folder", "prepared needs a number of clips to prepare: set clips"),
        ("data={kind: clips, source: a, sizes: [[0, 8, 8]]}", "sizes are (frames, height, width), each 1 or more"),
        (
            "data={kind: clips, source: a, sizes: [[1, 8, 8]], fps: 8, stride: 2}",
            "fps and stride both say",
        ),
        ("data.kind=films", "data"),
        ("samples={every_steps: [}", "is not valid YAML"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(FOLDER / "tiny-t2v.yaml", [override])


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml", [])
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(bad, [])
    bad.write_text("- 1")
    with pytest.raises(RecipeError, match="must hold a mapping"):
        load_recipe(bad, [])
    with pytest.raises(RecipeError, match="kind"):
        parse_recipe({"version": 1}, "it")
