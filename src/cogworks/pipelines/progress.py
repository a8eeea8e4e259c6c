"""What a running pipeline tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "encode", "steps", "decode", "write"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a phase: sampling steps, or decoded latent frames; 0 of 1, then 1 of 1, elsewhere."""

    phase: Phase
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener of a caller that does not listen."""
