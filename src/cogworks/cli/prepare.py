"""`cogworks data prepare`: encoding the clips of a recipe before its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.cli.terminal import AsJson, ProgressDisplay, result
from cogworks.errors import RecipeError, RequestError

if TYPE_CHECKING:
    from cogworks.training.clips.prepare import Prepared


def prepare_data(recipe: Path, /, *overrides: str, workers: int = 1, as_json: AsJson = False) -> None:
    """Encode the clips and captions of a transformer recipe once, into the folder that it names under `prepared`.

    What is there is not made again: an interrupted call goes on, and several recipes may share a folder. `train` makes
    what is missing itself; this does it with more processes, or on another machine. Clips that cannot be read or are
    too short are left out, and told.

    Args:
        recipe: A YAML file.
        overrides: Values to use instead of the recipe's, as key=value.
        workers: Processes that encode; each holds the networks that it needs.
        as_json: Print one JSON object instead of lines.
    """
    from cogworks.config.recipe import load_recipe
    from cogworks.config.transformer_recipe import TransformerRecipe

    if workers < 1:
        raise RequestError(f"--workers must be 1 or more, got {workers}")
    loaded = load_recipe(recipe, list(overrides))
    if not isinstance(loaded, TransformerRecipe):
        what = loaded.kind.replace("_", " ")
        raise RecipeError(
            f"{recipe} trains a {what}, which learns from its data as they are: there is nothing to prepare"
        )

    import torch

    from cogworks.training.clips.prepare import prepare

    torch.set_num_threads(loaded.threads)
    with ProgressDisplay() as display:
        prepared = prepare(
            loaded, workers, lambda what, done, total: display.show(f"encoding {what}", done, total, what)
        )
    result(_text(prepared), _values(prepared), as_json=as_json)


def _text(prepared: Prepared) -> str:
    rows = {
        "clips": f"{prepared.clips}, {prepared.new_clips} of them new",
        "captions": f"{prepared.captions}, {prepared.new_captions} of them new",
        "left out": f"{len(prepared.faults)}",
        "size": f"{prepared.num_bytes / 1e6:.1f} MB",
        "time": f"{prepared.seconds:.1f} s",
    }
    return "\n".join([str(prepared.path), *(f"  {name:<10}{value}" for name, value in rows.items())])


def _values(prepared: Prepared) -> dict[str, object]:
    return {
        "path": str(prepared.path),
        "clips": prepared.clips,
        "new_clips": prepared.new_clips,
        "captions": prepared.captions,
        "new_captions": prepared.new_captions,
        "bytes": prepared.num_bytes,
        "seconds": round(prepared.seconds, 3),
        "faults": [{"name": fault.name, "why": fault.why} for fault in prepared.faults],
    }
