"""What the tokens of a joint sequence mean.

A sequence holds one segment after another; a segment is the text tokens of a sample, then its video tokens in
raster order (frame slowest, column fastest). One sample a row is one segment; a packed row has several.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

Modality = Literal[0, 1]
VIDEO: Modality = 0
TEXT: Modality = 1


@dataclass(frozen=True)
class Segment:
    """One sample: `text` tokens, then frames x rows x columns video tokens.

    `modulation_row` says which row of the modulation table it takes.
    """

    text: int
    frames: int
    rows: int
    columns: int
    modulation_row: int = 0

    @property
    def video(self) -> int:
        return self.frames * self.rows * self.columns

    @property
    def length(self) -> int:
        return self.text + self.video


class Run(NamedTuple):
    """Neighbouring tokens that share one modulation: one modality of one segment."""

    start: int
    stop: int
    modality: Modality
    modulation_row: int


@dataclass(frozen=True)
class TokenLayout:
    """The segments of every row of a token tensor (B, N, D).

    Attributes:
        boundaries: where segments begin, and the length of the whole: one more entry than segments.
        runs: text and video of every segment that has any, in order.
        lengths: of the runs.
        without_text: of one segment alone, its video tokens; None for several, and where there is no text.
    """

    segments: tuple[Segment, ...]
    boundaries: tuple[int, ...] = field(init=False, repr=False, compare=False)
    runs: tuple[Run, ...] = field(init=False, repr=False, compare=False)
    lengths: tuple[int, ...] = field(init=False, repr=False, compare=False)
    without_text: TokenLayout | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Derived once here and not on demand: compiled blocks read them.
        boundaries, runs = [0], []
        for segment in self.segments:
            start, middle, stop = boundaries[-1], boundaries[-1] + segment.text, boundaries[-1] + segment.length
            if segment.text:
                runs.append(Run(start, middle, TEXT, segment.modulation_row))
            runs.append(Run(middle, stop, VIDEO, segment.modulation_row))
            boundaries.append(stop)
        object.__setattr__(self, "boundaries", tuple(boundaries))
        object.__setattr__(self, "runs", tuple(runs))
        object.__setattr__(self, "lengths", tuple(run.stop - run.start for run in runs))
        only = self.segments[0] if len(self.segments) == 1 and self.segments[0].text else None
        object.__setattr__(self, "without_text", None if only is None else TokenLayout((replace(only, text=0),)))

    @property
    def length(self) -> int:
        return self.boundaries[-1]


@dataclass(frozen=True)
class StepInfo:
    """Where in a sampling run a forward pass stands, for runners that keep state between steps.

    Attributes:
        index: 0-based sampling step; a runner resets its state at 0.
        total: number of sampling steps.
        branch: which guidance branch the batch holds; "joint" means unconditional rows, then conditional ones.
    """

    index: int
    total: int
    branch: Literal["unconditional", "conditional", "joint"]
