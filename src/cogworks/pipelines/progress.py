"""What a running pipeline tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "encode", "steps", "decode", "write"]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a phase: bytes read, sampling steps, or decoded latent frames; else one unit.

    A phase begins with 0 done, or with the steps that an interrupted run had done, and ends with all. Networks are read
    when they are first needed: "load" may come several times, and inside another phase. A phase that runs out of memory
    begins again.

    Attributes:
        network: that is read, in phase "load"; else empty.
    """

    phase: Phase
    done: int
    total: int
    network: str = ""


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener of a caller that does not listen."""
