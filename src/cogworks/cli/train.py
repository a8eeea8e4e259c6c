"""`cogworks train`: run a recipe."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, result
from cogworks.errors import RecipeError

if TYPE_CHECKING:
    from cogworks.config.recipe import Recipe


def train(
    recipe: Path,
    /,
    *overrides: str,
    print_config: Switch = False,
    dry_run: Switch = False,
    export: Annotated[Path | None, Parameter(show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Run a training recipe to its last step, resuming where it stopped before.

    Prints the folder of the model it made, which `--model` takes. Checkpoints and logs are beside it.

    Args:
        recipe: A YAML file; those of the bundled models are in the folder `recipes`.
        overrides: Values to use instead of the recipe's, as key=value; data.size=96 reaches nested keys.
        print_config: Print the recipe with all its values, and do not train.
        dry_run: Build everything, take two steps on real data, and say what they took; only prepared clips stay.
        export: Write the model or LoRA of this checkpoint of the run, and do not train.
        as_json: Print JSON: the result on standard output, progress as events on standard error.
    """
    from cogworks.config.recipe import load_recipe

    loaded = load_recipe(recipe, list(overrides))
    if print_config:
        import yaml

        values = loaded.model_dump(mode="json")
        result(yaml.safe_dump(values, sort_keys=False).rstrip(), values, as_json=as_json)
    elif dry_run:
        _dry_run(loaded, as_json=as_json)
    elif export is not None:
        _export(loaded, export, as_json=as_json)
    else:
        _run(loaded, as_json=as_json)


@contextmanager
def needing_training() -> Iterator[None]:
    """Say how to install what training needs where it is missing. Raises RecipeError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cogworks"):
            raise
        raise RecipeError(f"training needs {error.name}: pip install 'cogworks[train]'") from None


def _run(recipe: Recipe, *, as_json: bool) -> None:
    with needing_training():
        from cogworks.training.run import train as run
        from cogworks.training.safety.replicas import replica
    display = ProgressDisplay() if as_json else None
    on_step = None if display is None else lambda done, steps: display.show("train", done, steps, "steps")
    with _talk_on_stderr():
        model = run(recipe, on_step)
    if replica() == 0:
        result(str(model), {"model": str(model)}, as_json=as_json)


def _export(recipe: Recipe, checkpoint: Path, *, as_json: bool) -> None:
    with needing_training():
        from cogworks.training.run import export_checkpoint
    model = export_checkpoint(recipe, checkpoint)
    result(str(model), {"model": str(model)}, as_json=as_json)


def _dry_run(recipe: Recipe, *, as_json: bool) -> None:
    from dataclasses import asdict

    from cogworks.config.units import format_memory

    with needing_training():
        from cogworks.training.planning.dry_run import dry_run
        from cogworks.training.watching.watch import in_words
    with _talk_on_stderr():
        found = dry_run(recipe)
    lines = [
        f"all is there, and two steps were taken; the loss of the second is {found.loss:.4g}",
        f"learns {found.trained:,} of {found.parameters:,} parameters",
        *([f"{found.tokens:,} tokens a sample"] if found.tokens else []),
        f"memory {format_memory(found.memory)}, {format_memory(found.beyond)} of it for the run",
        f"{found.step_seconds:.3g} s a step, {in_words(found.seconds)} for {found.steps:,} steps",
    ]
    result("\n".join(lines), asdict(found) | {"seconds": found.seconds}, as_json=as_json)


@contextmanager
def _talk_on_stderr() -> Iterator[None]:
    """What Lightning prints is talk; of what it logs, warnings are worth a line."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # of Lightning's own code
    with contextlib.redirect_stdout(sys.stderr):
        yield
