"""What may change in a recipe while its run is on the way."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cogworks.config.training import Run
from cogworks.errors import RecipeError

log = logging.getLogger(__name__)

KEPT = frozenset(
    [
        "kind",
        "model",
        "variant",
        "vae",
        "codec",
        "text_encoder",
        "train_text_encoder",
        "train_encoder",
        "prediction",
        "discriminator",
        "lora",
        "optimizer",
        "average",
    ]
)
"""Keys of a recipe that a run cannot change on its way: they decide what its state holds, or are part of it."""

FREE = frozenset(
    [
        "output",
        "steps",
        "threads",
        "data_workers",
        "prepared",
        "compile",
        "activation_checkpointing",
        "save_dtype",
        "log_every",
        "checkpoints",
        "samples",
        "sentinel",
    ]
)
"""Keys of a recipe that do not change what a step computes. All others may change, and the run says so."""


def check_recipe(checkpoint: dict[str, Any], recipe: Run, path: Path) -> None:
    """Compare the recipe that a checkpoint was made with to the one that is to go on from it.

    Raises:
        RecipeError: it is of another model, LoRA or optimizer.
    """
    stored = checkpoint["recipe"]
    with contextlib.suppress(ValidationError):  # then it is of another kind, which the comparison says
        stored = type(recipe).model_validate(stored).model_dump(mode="json")  # with what is new since, at its default
    before, now = _flat(stored), _flat(recipe.model_dump(mode="json"))
    different = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    for key in different:
        if key.split(".")[0] in KEPT and key != "optimizer.clip_norm":
            raise RecipeError(
                f"{path} was made with {key} {before.get(key)}, and the recipe says {now.get(key)}: set it back, or "
                f"choose another output to begin a new run"
            )
    told = [key for key in different if key.split(".")[0] not in FREE]
    if told:
        log.warning("the recipe was changed since %s was made: %s", path.name, ", ".join(told))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as `optimizer.learning_rate`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
