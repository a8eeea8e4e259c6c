"""What of a run decides on memory and work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cogworks.config.measures import Quantization
from cogworks.config.request import GenerationRequest
from cogworks.config.variants import Variant
from cogworks.pipelines.geometry import Geometry, geometry, nearest_frames

SourceKind = Literal["none", "image", "video"]
DEFAULT_STRENGTH = 0.8


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """All of a run that decides on memory and work.

    Attributes:
        num_videos: in all.
        num_prompts: that have to be read by the text encoder, the empty one of guidance not counted; 0 where nothing
            has to be read: embeddings are given, or all texts are remembered (`prompts.PromptEncoder`).
        source: what the run begins from.
        quantize: how the transformer holds its weights, where that is not as it is published.
    """

    geometry: Geometry
    num_videos: int
    num_prompts: int
    guided: bool
    steps: int
    source: SourceKind = "none"
    quantize: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """What of the networks is in memory when a run begins; the others are read when they are first used.

    Networks are called as in `weights.Networks`.

    Attributes:
        loaded: those that are there.
        kept: of these, those that stay where others are put aside, because they may have been changed.
        vae_in_file: whether the VAE is computed with as its file has it (`weights.lazy.Form.in_file`): if it is not
            loaded, its weights come into memory as they are used.
        warm: whether this process has made a video before: the code and the kernels that it needs are there then.
    """

    loaded: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    vae_in_file: bool = False
    warm: bool = False


def default_shape(variant: Variant) -> RunShape:
    """One video as the variant makes it where nothing is asked."""
    return RunShape(
        geometry=geometry(variant, None, None, None),
        num_videos=1,
        num_prompts=1,
        guided=variant.defaults.guidance_scale > 1,
        steps=variant.defaults.steps,
        source="image" if variant.takes_image else "none",
    )


def request_shape(
    variant: Variant, request: GenerationRequest, video_frames: int | None = None, video_fps: float | None = None
) -> RunShape:
    """The run that a request asks for.

    Args:
        video_frames, video_fps: of the video that it begins from, where it was read.

    Raises:
        RequestError: sizes that the variant cannot make.
    """
    defaults = variant.defaults
    frames = request.num_frames
    if request.seconds is not None:
        frames = nearest_frames(variant, request.seconds * (request.fps or video_fps or defaults.fps))
    steps = request.num_inference_steps or defaults.steps
    if request.video is not None:
        steps = max(int(steps * (request.strength or DEFAULT_STRENGTH)), 1)
    scale = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    return RunShape(
        geometry=geometry(variant, request.height, request.width, frames, video_frames),
        num_videos=1,
        num_prompts=1,
        guided=scale > 1,
        steps=steps,
        source="video" if request.video is not None else "image" if request.image is not None else "none",
    )
