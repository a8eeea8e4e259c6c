"""What is asked of a model, and what came of it: the words that suites, judges, runs and reports share.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogworks.data.captions import CaptionFacts

Frames = NDArray[np.uint8]
"""(T, H, W, 3) RGB."""

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""


@dataclass(frozen=True)
class Case:
    """One video to make and to judge.

    Attributes:
        number: its place in the suite, from 1.
        group: cases of one group are counted together.
        prompt: asked for.
        seed: of the video.
        image: what the video is to begin with; None for text to video.
        reference: a video file to compare with; None if there is none.
        asked: what the video must show; None where pixels cannot tell.
    """

    number: int
    group: str
    prompt: str
    seed: int
    image: Picture | None = None
    reference: Path | None = None
    asked: CaptionFacts | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        number, group, prompt, seed: of the case.
        marks: attribute -> whether it is as asked; empty where nothing was asked.
        words: attribute -> (asked, seen) for every object, for confusion tables; None is what fits no word.
        measures: name -> figure, for example "flicker".
    """

    number: int
    group: str
    prompt: str
    seed: int
    marks: dict[str, bool] = field(default_factory=dict)
    words: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def all_right(self) -> bool:
        """Whether every mark is right; true of a case that has none."""
        return all(self.marks.values())


Judge = Callable[[Case, Frames], Outcome]
"""Says what a video made for a case shows."""


@dataclass(frozen=True)
class Suite:
    """Cases, and how their videos are judged.

    Attributes:
        name: "shapes", or the name of the file.
        fingerprint: changes when a case or the way it is judged does.
    """

    name: str
    cases: tuple[Case, ...]
    judge: Judge
    fingerprint: str
