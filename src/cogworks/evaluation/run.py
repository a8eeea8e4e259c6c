"""One model against the Shapes world: does it obey, and does its VAE give back what it is given.

Letters: B batch, T frames, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cogworks.evaluation.prompts import PROMPTS_FILE, evaluation_prompts
from cogworks.evaluation.shapes_eval import (
    EVALUATION_SEED,
    ReconstructionReport,
    ShapesReport,
    evaluate_shapes,
    reconstruction_report,
)
from cogworks.pipelines.generate import Pipeline
from cogworks.video import Video, to_frames, to_pixels

if TYPE_CHECKING:
    from cogworks.config.measures import Quantization
    from cogworks.config.variants import GenerationDefaults

FIRST_SEED = 1  # the seed of a prompt's video is the number of its line
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ModelReport:
    """What `cogworks eval` found of one model.

    Attributes:
        model: name of the variant.
        settings: size, length and sampling of every video.
        quantize: how the transformer was held, where that is not as it is published.
        prompts: what came of the prompts.
        reconstruction: what came of the clips that went through the VAE.
        seconds: the time both took.
    """

    model: str
    settings: GenerationDefaults
    quantize: Quantization | None
    prompts: ShapesReport
    reconstruction: ReconstructionReport
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "model": self.model,
            "settings": asdict(self.settings),
            "quantize": self.quantize,
            "prompts_file": PROMPTS_FILE,
            "first_seed": FIRST_SEED,
            "prompts": self.prompts.to_json(),
            "clips_seed": EVALUATION_SEED,
            "reconstruction": self.reconstruction.to_json(),
            "seconds": round(self.seconds, 1),
        }


def evaluate_model(
    pipeline: Pipeline, *, samples: int | None = None, batch: int = 8, on_progress: OnProgress | None = None
) -> ModelReport:
    """Generate a video for every evaluation prompt and pass unseen clips through the VAE, with the model's defaults.

    Args:
        samples: how many prompts, from the first, and how many clips; None takes as many as there are prompts.
        batch: videos made at once; it changes memory and time, and the frames by rounding alone.
        on_progress: called with ("prompts" or "clips", done, in all) after every batch.

    Raises:
        ValueError: `samples` or `batch` out of range.
    """
    prompts = evaluation_prompts()
    samples = len(prompts) if samples is None else samples
    if not 1 <= samples <= len(prompts):
        raise ValueError(f"samples must be from 1 to {len(prompts)}, the number of prompts, got {samples}")
    tell = on_progress or (lambda stage, done, total: None)
    defaults = pipeline.variant.defaults
    started = time.monotonic()

    def generate(chosen: list[str], seeds: list[int]) -> Sequence[NDArray[np.uint8]]:
        return [video.frames for video in cast(list[Video], pipeline.generate(chosen, seed=seeds))]

    tell("prompts", 0, samples)
    obeyed = evaluate_shapes(
        generate,
        prompts[:samples],
        batch=batch,
        first_seed=FIRST_SEED,
        on_progress=lambda done, total: tell("prompts", done, total),
    )
    clips_done = 0

    def reconstruct(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
        nonlocal clips_done
        again = reconstruct_clips(pipeline, clips)
        clips_done += len(clips)
        tell("clips", clips_done, samples)
        return again

    tell("clips", 0, samples)
    given_back = reconstruction_report(
        reconstruct,
        samples,
        batch=batch,
        size=(defaults.height, defaults.width),
        num_frames=defaults.num_frames,
        fps=defaults.fps,
    )
    seconds = time.monotonic() - started
    return ModelReport(pipeline.variant.name, defaults, pipeline.components.quantize, obeyed, given_back, seconds)


@torch.no_grad()
def reconstruct_clips(pipeline: Pipeline, clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Clips (B, T, H, W, 3) uint8 through the VAE and back, by the mean of the posterior."""
    vae = pipeline.components.vae
    weight = next(vae.parameters())
    pixels = torch.cat([to_pixels(clip) for clip in clips]).to(weight)  # (B, 3, T, H, W)
    again = vae.decode(vae.encode(pixels).mean)
    return np.stack([to_frames(clip[None]) for clip in again])
