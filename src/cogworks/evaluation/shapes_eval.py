"""Does the video do what the prompt says? Shares of prompts obeyed, and of clips that survive a reconstruction.

Models are passed in as functions, so that anything that makes or changes frames can be judged.

Letters: B batch, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cogworks.data.captions import parse_caption
from cogworks.data.shapes import render
from cogworks.evaluation.metrics import psnr, ssim, wilson_interval
from cogworks.evaluation.oracle import Reading, read

ATTRIBUTES = ("shape", "colour", "motion", "background")
EVALUATION_SEED = 1_000_003  # of clips for measuring; training must draw its clips with another
MAX_PSNR = 100.0  # dB, what an exact reconstruction counts as in a mean

Generate = Callable[[list[str], list[int]], Sequence[NDArray[np.uint8]]]
Reconstruct = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Share:
    """`right` of `total`, with the bounds of its 95 % Wilson interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0

    def to_json(self) -> dict[str, object]:
        low, high = wilson_interval(self.right, self.total)
        return {"share": self.value, "right": self.right, "total": self.total, "low": low, "high": high}


@dataclass(frozen=True)
class PromptRow:
    """One prompt, the seed of its video, what was asked for and what was seen."""

    prompt: str
    seed: int
    asked: Reading
    seen: Reading

    def is_right(self, attribute: str) -> bool:
        return getattr(self.asked, attribute) == getattr(self.seen, attribute)


@dataclass(frozen=True)
class ShapesReport:
    """The rows of an evaluation and the shares that follow from them."""

    rows: tuple[PromptRow, ...]

    def accuracy(self, attribute: str) -> Share:
        """How many prompts were obeyed in "shape", "colour", "motion" or "background"."""
        return Share(sum(row.is_right(attribute) for row in self.rows), len(self.rows))

    @property
    def all_four(self) -> Share:
        """How many prompts were obeyed in every attribute."""
        return Share(sum(row.asked == row.seen for row in self.rows), len(self.rows))

    def confusion(self, attribute: str) -> dict[str, dict[str, int]]:
        """Asked word -> seen word -> count; what fits no word is "none"."""
        table: dict[str, dict[str, int]] = {}
        for row in sorted(self.rows, key=lambda row: str(getattr(row.asked, attribute))):
            counts = table.setdefault(str(getattr(row.asked, attribute)), {})
            seen = getattr(row.seen, attribute) or "none"
            counts[seen] = counts.get(seen, 0) + 1
        return table

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "all_four": self.all_four.to_json(),
            "accuracy": {name: self.accuracy(name).to_json() for name in ATTRIBUTES},
            "confusion": {name: self.confusion(name) for name in ATTRIBUTES},
            "rows": [
                {"prompt": row.prompt, "seed": row.seed, "asked": vars(row.asked), "seen": vars(row.seen)}
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class ReconstructionReport:
    """Means over clips, and how many clips the oracle reads the same before and after, in all and by attribute."""

    num_clips: int
    psnr: float
    ssim: float
    unchanged: Share
    unchanged_by_attribute: dict[str, Share]

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "num_clips": self.num_clips,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "unchanged": self.unchanged.to_json(),
            "unchanged_by_attribute": {name: share.to_json() for name, share in self.unchanged_by_attribute.items()},
        }


def evaluate_shapes(
    generate: Generate,
    prompts: Sequence[str],
    *,
    batch: int = 8,
    first_seed: int = 0,
    on_progress: Progress | None = None,
) -> ShapesReport:
    """Generate a video for every prompt and read what it shows.

    Args:
        generate: (prompts, seeds) of up to `batch` -> one (T, H, W, 3) uint8 array for each.
        prompts: captions of one object; the video of prompt i has the seed `first_seed` + i, whatever `batch` is.
        on_progress: called with (prompts done, prompts in all) after every batch.

    Raises:
        ValueError: a prompt is not a caption of one object, `batch` is below 1, or `generate` gave another number of
            videos than it got prompts.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    asked = [_asked(prompt) for prompt in prompts]
    rows: list[PromptRow] = []
    for start in range(0, len(prompts), batch):
        chosen = list(prompts[start : start + batch])
        seeds = [first_seed + start + place for place in range(len(chosen))]
        videos = generate(chosen, seeds)
        if len(videos) != len(chosen):
            raise ValueError(f"generate must give one video for each prompt: {len(chosen)}, got {len(videos)}")
        for place, video in enumerate(videos):
            rows.append(PromptRow(chosen[place], seeds[place], asked[start + place], read(video)))
        if on_progress is not None:
            on_progress(len(rows), len(prompts))
    return ShapesReport(tuple(rows))


def reconstruction_report(
    reconstruct: Reconstruct,
    num_clips: int = 100,
    seed: int = EVALUATION_SEED,
    *,
    batch: int = 10,
    size: int | tuple[int, int] = 64,
    num_frames: int = 17,
    fps: float = 8,
) -> ReconstructionReport:
    """Compare clips of one object, drawn from all combinations, with their reconstructions.

    Args:
        reconstruct: (B, T, H, W, 3) uint8 -> the same shape and type.
        seed: of the clips.

    Raises:
        ValueError: `num_clips` or `batch` below 1, or a reconstruction of another shape or type.
    """
    if min(num_clips, batch) < 1:
        raise ValueError(f"num_clips and batch must be 1 or more, got {num_clips} and {batch}")
    ratios: list[float] = []
    similarities: list[float] = []
    same = dict.fromkeys(ATTRIBUTES, 0)
    same_all = 0
    for start in range(0, num_clips, batch):
        indices = range(start, min(start + batch, num_clips))
        clips = np.stack([render(seed, i, size, num_frames, fps, split="any", num_objects=1)[0] for i in indices])
        for clip, again in zip(clips, reconstruct(clips), strict=True):
            ratios.append(min(psnr(clip, again), MAX_PSNR))
            similarities.append(ssim(clip, again))
            before, after = read(clip), read(again)
            same_all += before == after
            for name in ATTRIBUTES:
                same[name] += getattr(before, name) == getattr(after, name)
    return ReconstructionReport(
        num_clips,
        math.fsum(ratios) / num_clips,
        math.fsum(similarities) / num_clips,
        Share(same_all, num_clips),
        {name: Share(count, num_clips) for name, count in same.items()},
    )


def _asked(prompt: str) -> Reading:
    facts = parse_caption(prompt)
    if len(facts.objects) != 1:
        raise ValueError(f"the evaluation reads clips of one object, but {prompt!r} asks for {len(facts.objects)}")
    (words,) = facts.objects
    return Reading(words.shape, words.colour, words.motion, facts.background)
