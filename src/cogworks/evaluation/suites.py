"""Which cases a name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.errors import RequestError
from cogworks.evaluation.case import Suite
from cogworks.evaluation.shapes.suite import SHAPES, shapes_suite

if TYPE_CHECKING:
    import torch

    from cogworks.config.variants import Variant


def find_suite(
    name: str, variant: Variant, *, clip: Path | None = None, device: torch.device | str = "cpu"
) -> tuple[Suite, tuple[str, ...]]:
    """The suite of this name as a model takes it, and what it does not measure, a sentence each.

    Args:
        name: "shapes", or a file of prompts.
        clip: the folder of a CLIP model, for the measure "CLIP score"; it computes on `device`.

    Raises:
        RequestError: there is no such suite, or a line of the file or the folder cannot be used.
    """
    left_out: tuple[str, ...] = ()
    if name == SHAPES:
        suite = shapes_suite(takes_image=variant.takes_image)
    elif Path(name).suffix:
        from cogworks.evaluation.file_suite import read_suite

        suite = read_suite(Path(name), variant)
        if clip is None:
            left_out = ("CLIP score, which needs the folder of a CLIP model (--clip)",)
    else:
        raise RequestError(f"there is no suite {name!r}; there is {SHAPES}, or name a file of prompts (FILE.jsonl)")
    if clip is not None:
        from cogworks.evaluation.figures.clip_score import with_clip_score

        suite = with_clip_score(suite, clip, device)
    return suite, left_out
