"""What a running pipeline tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "encode", "steps", "decode", "write"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a phase: sampling steps, or decoded latent frames; elsewhere the whole is one unit.

    A phase begins with 0 done and ends with all.
    """

    phase: Phase
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener of a caller that does not listen."""
