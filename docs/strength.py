"""What strength does in video to video: clips whose truth is known, a prompt that changes one thing, and a judge.

Sources are rendered from combinations that training shows. Each is asked for four times, with another colour, shape,
motion or background and everything else as it is.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cogworks.data.captions import canonical_caption, parse_caption
from cogworks.data.shape_words import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, backgrounds_for, train_triples
from cogworks.data.shapes import Scene, draw_scene, render_scene
from cogworks.evaluation.case import Case, Frames, Outcome
from cogworks.evaluation.figures.metrics import MAX_PSNR, psnr
from cogworks.evaluation.shapes.oracle import EDGE_SHARE, MIN_CONTRAST
from cogworks.evaluation.shapes.suite import judge
from cogworks.pipelines.generate import Pipeline
from cogworks.rng import derive_seed
from cogworks.video import Video

SOURCES_SEED = 1_000_081  # of the scenes; training draws its clips with others
WORDS = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": MOTIONS, "background": BACKGROUNDS}
OBEYED, KEPT, BOTH = "obeyed", "kept", "both"
TO_SOURCE, TO_WANTED, OVERLAP = "PSNR to the source", "PSNR to what was asked for", "overlap with the source"


@dataclass(frozen=True)
class Edit:
    """A source with one thing asked to be another: `changed` names it, `wanted` is the scene that would be right."""

    case: Case
    changed: str
    wanted: Scene


def source_scene(number: int) -> Scene:
    """The scene of a source, from 1."""
    return draw_scene(SOURCES_SEED, number, split="train", num_objects=1)


def edits_of(number: int) -> list[Edit]:
    """The four edits of a source, in the order of `WORDS`; all have the number of the source as their seed."""
    scene = source_scene(number)
    edits = []
    for place, (changed, words) in enumerate(WORDS.items()):
        rng = np.random.default_rng(derive_seed("strength", SOURCES_SEED, number, changed))
        possible = [wanted for word in words if (wanted := _changed(scene, changed, word)) is not None]
        wanted = possible[rng.integers(len(possible))]
        prompt = canonical_caption(*wanted.objects[0].triple, wanted.background)
        case = Case((number - 1) * len(WORDS) + place + 1, changed, prompt, seed=number, asked=parse_caption(prompt))
        edits.append(Edit(case, changed, wanted))
    return edits


def edit_videos(pipeline: Pipeline, number: int, strength: float) -> Iterator[Outcome]:
    """Make the four edits of a source at once, and judge each."""
    sizes = pipeline.variant.defaults
    shown = (sizes.height, sizes.width, sizes.num_frames, sizes.fps)
    source, edits = render_scene(source_scene(number), *shown), edits_of(number)
    videos = pipeline.generate(
        [edit.case.prompt for edit in edits],
        video=Video(source, sizes.fps),
        strength=strength,
        seed=[edit.case.seed for edit in edits],
    )
    assert isinstance(videos, list)  # of a list of prompts
    for edit, video in zip(edits, videos, strict=True):
        yield judge_edit(edit, video.frames, source, render_scene(edit.wanted, *shown))


def judge_edit(edit: Edit, frames: Frames, source: Frames, wanted: Frames) -> Outcome:
    """Whether a video shows what was to change, and whether all the rest stayed.

    Args:
        frames, source, wanted: (T, H, W, 3): the video, what it began from, and what the renderer makes of the prompt.

    Returns:
        The marks "obeyed" and "kept"; in dB, the PSNR to `source` and to `wanted`; and the overlap of the object's
        pixels with those of the source, over all frames: intersection over union, in 0..1.
    """
    outcome = judge(edit.case, frames)
    marks = {
        OBEYED: outcome.marks[edit.changed],
        KEPT: all(right for name, right in outcome.marks.items() if name != edit.changed),
    }
    here, there = object_mask(frames), object_mask(source)
    union = int((here | there).sum())
    measures = {
        TO_SOURCE: min(psnr(frames, source), MAX_PSNR),
        TO_WANTED: min(psnr(frames, wanted), MAX_PSNR),
        OVERLAP: int((here & there).sum()) / union if union else 1.0,
    }
    return replace(outcome, marks=marks, measures=measures)


def object_mask(frames: Frames) -> NDArray[np.bool_]:
    """(T, H, W) whether a pixel differs from the background, which is what the left and right edges mostly show."""
    edge = max(1, round(frames.shape[2] * EDGE_SHARE))
    sides = np.concatenate([frames[:, :, :edge], frames[:, :, -edge:]], axis=2)
    rows = np.median(sides, axis=(0, 2))  # (H, 3)
    return np.linalg.norm(frames - rows[:, None], axis=-1) > MIN_CONTRAST


def _changed(scene: Scene, attribute: str, word: str) -> Scene | None:
    """The scene with another word; None where nothing would change, or training does not show the combination."""
    (item,) = scene.objects
    if word == (scene.background if attribute == "background" else getattr(item, attribute)):
        return None
    if attribute == "background":
        changed = replace(scene, background=word)
    else:
        changed = replace(scene, objects=(replace(item, **{attribute: word}),))
    (item,) = changed.objects
    possible = item.triple in train_triples() and changed.background in backgrounds_for(item.colour)
    return changed if possible else None
