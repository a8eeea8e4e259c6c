"""What is asked of one run, checked before any network runs. Sizes are in `geometry.py`."""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from cogworks.config.variants import VARIANTS, Variant
from cogworks.diffusion.guidance import GuidanceSchedule, constant_guidance, timestep_cosine_guidance
from cogworks.diffusion.samplers import SAMPLERS, Sampler
from cogworks.errors import RequestError
from cogworks.pipelines.finite import check_given
from cogworks.pipelines.geometry import check_whole
from cogworks.video import Video

OutputType = Literal["video", "latent", "pt", "np"]


def check_prompts(
    variant: Variant,
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
) -> int:
    """The rules that diffusers users know: one way to give each prompt, and as many negative ones as prompts.

    Returns:
        The number of prompts.

    Raises:
        RequestError: says which rule was broken.
    """
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise RequestError("give either negative_prompt or negative_prompt_embeds, not both")
    _check_text("prompt", prompt)
    _check_text("negative_prompt", negative_prompt)
    _check_embeds(variant, "prompt_embeds", prompt_embeds)
    _check_embeds(variant, "negative_prompt_embeds", negative_prompt_embeds)
    if prompt is not None and prompt_embeds is None:
        num_prompts = len(prompt) if isinstance(prompt, list) else 1
        if negative_prompt_embeds is not None:
            raise RequestError("negative_prompt_embeds needs prompt_embeds, not prompt")
    elif prompt_embeds is not None and prompt is None:
        num_prompts = len(prompt_embeds)
        if negative_prompt_embeds is not None and negative_prompt_embeds.shape != prompt_embeds.shape:
            shapes = f"{tuple(prompt_embeds.shape)} and {tuple(negative_prompt_embeds.shape)}"
            raise RequestError(f"prompt_embeds and negative_prompt_embeds must have one shape, got {shapes}")
    else:
        raise RequestError("give either prompt or prompt_embeds, and not both")
    if isinstance(negative_prompt, list) and len(negative_prompt) != num_prompts:
        raise RequestError(
            f"got {len(negative_prompt)} negative prompts for {num_prompts} prompts; give one, or one for each"
        )
    return num_prompts


def _check_text(name: str, text: object) -> None:
    texts = text if isinstance(text, list) else [text]
    if text is not None and not (texts and all(isinstance(each, str) for each in texts)):
        raise RequestError(f"{name} must be a string or a list of strings, got {text!r}")


def _check_embeds(variant: Variant, name: str, embeds: Tensor | None) -> None:
    tokens, width = variant.transformer.text_tokens, variant.transformer.text_width
    if embeds is not None and (embeds.ndim != 3 or embeds.shape[1:] != (tokens, width) or len(embeds) == 0):
        raise RequestError(f"{name} must have shape (prompts, {tokens}, {width}), got {tuple(embeds.shape)}")
    check_given(name, embeds)


def check_source(variant: Variant, image: object | None, video: object | None) -> None:
    """Raises RequestError unless the variant can begin from what is given: an image, a video or neither."""
    if image is not None and video is not None:
        raise RequestError("give an image or a video, not both")
    if not (image is None or isinstance(image, np.ndarray) or hasattr(image, "convert")):  # PIL may not be loaded
        raise RequestError(
            f"image must be an array (H, W, 3) of uint8 or a PIL image, got {type(image).__name__}; "
            "cogworks.video.read_image reads a file"
        )
    if not (video is None or isinstance(video, Video)):
        raise RequestError(
            f"video must be a cogworks.Video, got {type(video).__name__}; cogworks.video.read_video reads a file, and "
            "cogworks.Video(frames, fps=8) takes an array (T, H, W, 3) of uint8"
        )
    if variant.takes_image and image is None:
        raise RequestError(
            f"{variant.name} is an image-to-video model: it needs an image; {_counterparts(variant)} without one"
        )
    if image is not None and not variant.takes_image:
        raise RequestError(
            f"{variant.name} is a text-to-video model and cannot begin from an image; {_counterparts(variant)} from one"
        )


def _counterparts(variant: Variant) -> str:
    """The models of the other kind: that of the same family and size, or all there are."""
    own = variant.name.removesuffix("-i2v") if variant.takes_image else f"{variant.name}-i2v"
    others = [other.name for other in VARIANTS.values() if other.takes_image != variant.takes_image]
    found = [own] if own in others else others
    return f"{found[0]} begins" if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]} begin"


def check_output(output_type: str, fps: float | None) -> None:
    """Raises RequestError for an unknown form of output, or a frame rate that is not a positive number."""
    if output_type not in get_args(OutputType):
        raise RequestError(f"output_type must be one of {', '.join(get_args(OutputType))}, got {output_type!r}")
    if fps is not None and not (isinstance(fps, Real) and 0 < fps < math.inf):
        raise RequestError(f"fps must be a positive number, got {fps!r}")


def choose_guidance(guidance_scale: float, *, dynamic: bool) -> GuidanceSchedule:
    """The scale of every step: constant, or the published one that changes with the timestep.

    Raises:
        RequestError: the scale is not a finite number of at least 0.
    """
    if not (isinstance(guidance_scale, Real) and 0 <= guidance_scale < math.inf):
        raise RequestError(f"guidance must be a number of at least 0, got {guidance_scale!r}")
    return (timestep_cosine_guidance if dynamic else constant_guidance)(guidance_scale)


def choose_steps(steps: int) -> int:
    """The number of sampling steps. Raises RequestError if it is no whole number; the schedule knows the range."""
    return check_whole("the number of steps", steps)


def choose_sampler(name: str) -> Sampler:
    """The sampler of this name; a hyphen counts as an underscore. Raises RequestError with the names there are."""
    found = SAMPLERS.get(name.replace("-", "_"))
    if found is None:
        raise RequestError(f"no sampler named {name!r}; there are {', '.join(SAMPLERS)}")
    return found
