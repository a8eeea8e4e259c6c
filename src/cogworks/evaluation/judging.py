"""Cases in, videos out, outcomes read: the loop that every evaluation goes through.

Models are passed in as functions, so that anything that makes frames can be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cogworks.evaluation.case import Case, Frames, Judge, Outcome

if TYPE_CHECKING:
    from cogworks.pipelines.generate import Pipeline

Make = Callable[[Sequence[Case]], Sequence[Frames]]
"""Makes the video (T, H, W, 3) of each of some cases at once. The seed of each is its own, whatever is made with it."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Judged:
    """A video that was made, and what came of its case."""

    case: Case
    frames: Frames
    outcome: Outcome


def batches(cases: Sequence[Case], batch: int) -> list[tuple[Case, ...]]:
    """The cases in their order, up to `batch` at once; of one group, and alone where they begin from an image.

    The batches of a group are those of every longer list that begins with the same cases, but for the last one: a run
    that goes on makes the same videos together again.

    Raises:
        ValueError: `batch` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    found = []
    for _, members in groupby(cases, key=lambda case: (case.group, case.image is not None)):
        group = tuple(members)
        size = batch if group[0].image is None else 1
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def judged(make: Make, cases: Sequence[Case], judge: Judge) -> Iterator[Judged]:
    """Make the videos of some cases at once, and judge each.

    Raises:
        ValueError: `make` gave another number of videos than there are cases.
    """
    videos = make(cases)
    if len(videos) != len(cases):
        raise ValueError(f"one video for each case was expected: {len(cases)}, got {len(videos)}")
    for case, frames in zip(cases, videos, strict=True):
        yield Judged(case, frames, judge(case, frames))


def judge_all(
    make: Make, cases: Sequence[Case], judge: Judge, *, batch: int = 8, on_progress: Progress | None = None
) -> tuple[Outcome, ...]:
    """What comes of all cases, in their order.

    Args:
        batch: videos made at once.
        on_progress: called with (cases done, cases in all) after every batch.

    Raises:
        ValueError: as `batches` and `judged`.
    """
    outcomes: list[Outcome] = []
    for chosen in batches(cases, batch):
        outcomes += [item.outcome for item in judged(make, chosen, judge)]
        if on_progress is not None:
            on_progress(len(outcomes), len(cases))
    return tuple(outcomes)


def making(pipeline: Pipeline, **options: Any) -> Make:
    """A pipeline as what makes videos; `options` are those of `generate`, whose defaults hold for the rest."""

    def make(cases: Sequence[Case]) -> list[Frames]:
        image = cases[0].image
        assert image is None or len(cases) == 1  # one image begins one video
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        videos = pipeline.generate(prompts, image=image, seed=seeds, **options)
        assert isinstance(videos, list)  # of a list of prompts
        return [video.frames for video in videos]

    return make
