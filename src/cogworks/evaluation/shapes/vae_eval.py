"""Does a VAE give back what it is given: as sharp, as readable, as still, and in one piece?

Clips of the Shapes world that training never draws go through encoder (the mean of its posterior) and decoder.

- One object, two objects: PSNR, SSIM, and how often the oracle reads the same before and after.
- Still: scenes that do not move must come back as clips that do not move. A causal VAE does so by its construction:
  it continues the first frame into the past, so nothing tells it one frame of such a clip from another. Resting is
  the harder question: what comes back of the pixels that do not change, in clips where others do.
- Seams: the VAE works in chunks of frames. From frame to frame the error changes; where it changes more at the first
  frame of a chunk than elsewhere, the video jumps there. It changes more at the first frame of every latent frame
  too, chunk or not, so that is the comparison which tells of the chunks alone.

Letters: B batch, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cogworks.data.shapes import Scene, draw_scene, render_scene
from cogworks.evaluation.figures.metrics import MAX_PSNR, psnr, ssim
from cogworks.evaluation.figures.shares import Mean, Share
from cogworks.evaluation.shapes.oracle import ATTRIBUTES, read_objects
from cogworks.evaluation.shapes.vae_report import EVALUATION_SEED, GivenBack, Seams, VAEReport
from cogworks.models.vae_frames import LATENTS_PER_CHUNK
from cogworks.video import to_frames, to_pixels

if TYPE_CHECKING:
    from cogworks.pipelines.generate import Pipeline

Clips = NDArray[np.uint8]
"""(B, T, H, W, 3) RGB."""

Reconstruct = Callable[[Clips], Clips]
OnProgress = Callable[[int, int], None]

NUM_CLIPS = 100
LATENT_FRAMES = 4  # frames of a latent frame; the first frame of a clip is one by itself
CHUNK_FRAMES = LATENTS_PER_CHUNK * LATENT_FRAMES  # the first chunk has a frame more
MAX_STILL_CLIPS = 20  # they differ in nothing that matters here


@dataclass(frozen=True)
class ClipFormat:
    """Size in pixels, number and rate of the frames of every clip; frames are a multiple of 8 and one more."""

    height: int
    width: int
    num_frames: int
    fps: float


def evaluate_vae(
    pipeline: Pipeline, samples: int = NUM_CLIPS, batch: int = 10, on_progress: OnProgress | None = None
) -> VAEReport:
    """Pass clips of the model's default size, length and rate through its VAE.

    Args:
        samples: moving clips with one object, and as many with two; still ones are 20 at most.
        batch: clips at a time; it changes memory and time, and pixels by rounding alone.
        on_progress: called with (clips done, clips in all), at the start and after every batch.

    Raises:
        ValueError: `samples` or `batch` below 1.
    """
    defaults = pipeline.variant.defaults
    # The decoder gives back as many frames as there were for multiples of 8 and one more.
    frames = (defaults.num_frames - 1) // 8 * 8 + 1
    form = ClipFormat(defaults.height, defaults.width, frames, defaults.fps)
    return measure(lambda clips: reconstruct_clips(pipeline, clips), form, samples, batch, on_progress)


def measure(
    reconstruct: Reconstruct,
    form: ClipFormat,
    samples: int = NUM_CLIPS,
    batch: int = 10,
    on_progress: OnProgress | None = None,
) -> VAEReport:
    """What `evaluate_vae` measures, of anything that gives clips back.

    Args:
        reconstruct: (B, T, H, W, 3) uint8 -> the same shape and type.

    Raises:
        ValueError: `samples` or `batch` below 1, clips of one frame, or a reconstruction of another shape or type.
    """
    if min(samples, batch) < 1:
        raise ValueError(f"samples and batch must be 1 or more, got {samples} and {batch}")
    if form.num_frames < 2:
        raise ValueError(f"clips must have 2 frames or more, got {form.num_frames}")
    one, two, still = _Tally(1), _Tally(2), _Tally(1)
    kinds = (
        (one, _moving(1), samples),
        (two, _moving(2), samples),
        (still, _without_motion, min(samples, MAX_STILL_CLIPS)),
    )
    done, total = 0, sum(count for *_, count in kinds)
    tell = on_progress or (lambda done, total: None)
    tell(done, total)
    for tally, scene_of, count in kinds:
        for clips in _batches(scene_of, form, count, batch):
            for clip, again in zip(clips, reconstruct(clips), strict=True):
                tally.add(clip, again)
            done += len(clips)
            tell(done, total)
    return VAEReport(
        one_object=one.given_back(),
        two_objects=two.given_back(),
        still=Mean.of(still.differences),
        resting=Mean.of(one.differences),
        seams={"still": still.seams(), "moving": one.seams()} if form.num_frames > CHUNK_FRAMES + 1 else {},
    )


@torch.no_grad()
def reconstruct_clips(pipeline: Pipeline, clips: Clips) -> Clips:
    """Clips (B, T, H, W, 3) uint8 through the VAE and back, by the mean of the posterior."""
    vae = pipeline.components.vae
    weight = next(vae.parameters())
    pixels = torch.cat([to_pixels(clip) for clip in clips]).to(weight)  # (B, 3, T, H, W)
    again = vae.decode(vae.encode(pixels).mean)
    return np.stack([to_frames(clip[None]) for clip in again])


class _Tally:
    """Counts what came back of clips of one kind."""

    def __init__(self, num_objects: int) -> None:
        self.num_objects = num_objects
        self.ratios: list[float] = []
        self.similarities: list[float] = []
        self.unchanged: list[dict[str, bool]] = []
        self.differences: list[float] = []  # of pixels at rest
        self.error_changes: list[NDArray[np.float64]] = []  # (T - 1,) each

    def add(self, clip: NDArray[np.uint8], again: NDArray[np.uint8]) -> None:
        self.ratios.append(min(psnr(clip, again), MAX_PSNR))
        self.similarities.append(ssim(clip, again))
        self.unchanged.append(_unchanged(clip, again, self.num_objects))
        before, after = (np.divide(frames, 255, dtype=np.float32) for frames in (clip, again))
        at_rest = (clip == clip[:1]).all(axis=(0, 3))  # (H, W)
        self.differences.append(float(np.abs(np.diff(after[:, at_rest], axis=0)).mean(dtype=np.float64)))
        self.error_changes.append(np.abs(np.diff(after - before, axis=0)).mean(axis=(1, 2, 3), dtype=np.float64))

    def given_back(self) -> GivenBack:
        total = len(self.unchanged)
        return GivenBack(
            Mean.of(self.ratios),
            Mean.of(self.similarities),
            Share(sum(all(marks.values()) for marks in self.unchanged), total),
            {name: Share(sum(marks[name] for marks in self.unchanged), total) for name in ATTRIBUTES},
        )

    def seams(self) -> Seams:
        change = np.mean(self.error_changes, axis=0)
        frame = np.arange(1, len(change) + 1)  # change[i] is that from frame i to i + 1
        begins_latent = frame % LATENT_FRAMES == 1
        begins_chunk = (frame % CHUNK_FRAMES == 1) & (frame > 1)
        return Seams(
            float(change[begins_chunk].mean()),
            float(change[begins_latent & ~begins_chunk].mean()),
            float(change[~begins_chunk].mean()),
        )


def _unchanged(clip: NDArray[np.uint8], again: NDArray[np.uint8], num_objects: int) -> dict[str, bool]:
    """Attribute -> whether it reads the same of every object. Objects are the same where their colours are."""
    (before, background), (after, background_after) = (read_objects(frames, num_objects) for frames in (clip, again))
    found = {item.colour: item for item in after}
    same: dict[str, bool] = {"colour": {item.colour for item in before} == set(found)}
    for name in ("shape", "motion"):
        same[name] = all(
            item.colour in found and getattr(found[item.colour], name) == getattr(item, name) for item in before
        )
    same["background"] = background == background_after
    return same


def _moving(num_objects: int) -> Callable[[int], Scene]:
    return lambda index: draw_scene(EVALUATION_SEED, index, split="any", num_objects=num_objects)


def _without_motion(index: int) -> Scene:
    scene = _moving(1)(index)
    return replace(scene, objects=tuple(replace(item, motion="still") for item in scene.objects))


def _batches(scene_of: Callable[[int], Scene], form: ClipFormat, samples: int, batch: int) -> Iterator[Clips]:
    for start in range(0, samples, batch):
        scenes = [scene_of(index) for index in range(start, min(start + batch, samples))]
        yield np.stack([render_scene(scene, form.height, form.width, form.num_frames, form.fps) for scene in scenes])
