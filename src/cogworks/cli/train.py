"""`cogworks train`: run a recipe."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from cogworks.cli.terminal import AsJson, Switch, result
from cogworks.errors import RecipeError


def train(recipe: Path, /, *overrides: str, print_config: Switch = False, as_json: AsJson = False) -> None:
    """Run a training recipe to its last step, resuming where it stopped before.

    Prints the folder of the model it made, which `--model` takes. Checkpoints and logs are beside it.

    Args:
        recipe: A YAML file; those of the bundled models are in the folder `recipes`.
        overrides: Values to use instead of the recipe's, as key=value; data.size=96 reaches nested keys.
        print_config: Print the recipe with all its values, and do not train.
        as_json: Print one JSON object instead of text.
    """
    from cogworks.config.recipe import load_recipe

    loaded = load_recipe(recipe, list(overrides))
    if print_config:
        import yaml

        values = loaded.model_dump(mode="json")
        result(yaml.safe_dump(values, sort_keys=False).rstrip(), values, as_json=as_json)
        return
    try:
        from cogworks.training.replicas import replica
        from cogworks.training.run import train as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cogworks"):
            raise
        raise RecipeError(f"training needs {error.name}: pip install 'cogworks[train]'") from None
    with contextlib.redirect_stdout(sys.stderr):  # Lightning's bars and notes are talk
        model = run(loaded)
    if replica() == 0:
        result(str(model), {"model": str(model)}, as_json=as_json)
