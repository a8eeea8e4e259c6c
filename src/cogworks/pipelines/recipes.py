"""The recipe of a video: the request that gives it again, and all that its pixels depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogworks.config.measures import Measures
from cogworks.config.request import GenerationRequest
from cogworks.config.video_recipe import VideoRecipe
from cogworks.pipelines.provenance import describe_run, request_key, versions
from cogworks.video import Video, hash_frames
from cogworks.weights.fingerprint import weights_hash
from cogworks.weights.load import Components

IN_MEMORY = Path("(in memory)")
"""Stands in a recipe for an image or video that was in no file."""


def make_recipe(
    request: GenerationRequest,
    made: Video,
    components: Components,
    measures: Measures,
    inputs: dict[str, str],
    weights: str | None,
    key: str | None = None,
) -> VideoRecipe:
    """The recipe of `made`, with all that the model filled in, so that other defaults would not change it.

    Args:
        request: what was asked.
        inputs: hashes of what it begins from.
        weights: hash of the weights, or None where they were changed after loading.
        key: names what was asked; that of `request` if not given.
    """
    defaults = components.variant.defaults
    filled = {
        "height": made.height,
        "width": made.width,
        "num_frames": made.num_frames,
        "fps": made.fps,
        "num_inference_steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "use_dynamic_cfg": defaults.dynamic_guidance,
        "sampler": defaults.sampler,
    }
    unsaid = {name: value for name, value in filled.items() if getattr(request, name) is None}
    return VideoRecipe(
        request=request.model_copy(update={**unsaid, "seconds": None}),
        key=key or request_key(request, inputs, weights, components.quantize),
        weights=weights,
        inputs=inputs,
        run=describe_run(components.device, components.dtype, components.text_dtype, measures, components.quantize),
        versions=versions(),
        pixels=hash_frames(made.frames),
    )


def requests_of(
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    keys: Sequence[tuple[int, int]],
    num_videos: int,
    asked: dict[str, Any],
) -> list[GenerationRequest | None]:
    """The request that gives each video of a batch alone; None for what has none.

    Args:
        keys: (seed, sample) of each video; only the first sample of a seed has a request of its own.
        num_videos: of each prompt.
        asked: what all have in common.
    """
    found: list[GenerationRequest | None] = []
    for number, (seed, sample) in enumerate(keys):
        text = prompt[number // num_videos] if isinstance(prompt, list) else prompt
        negative = negative_prompt[number // num_videos] if isinstance(negative_prompt, list) else negative_prompt
        values = {**asked, "prompt": text, "negative_prompt": negative, "seed": seed}
        found.append(GenerationRequest(**values) if sample == 0 and text.strip() and seed >= 0 else None)
    return found


def with_recipes(
    videos: list[Video],
    requests: list[GenerationRequest | None],
    components: Components,
    measures: Measures,
    source: NDArray[np.uint8] | None,
) -> list[Video]:
    """The videos with their recipes, which are made when they are first written: hashing weights may take a minute.

    Args:
        requests: what gives each of them alone; None where nothing does.
        source: (T, H, W, 3) frames that they begin from.
    """
    changed = any(network.lent for network in components.networks)
    inputs = {} if source is None else {"frames": hash_frames(source)}

    @cache
    def weights() -> str | None:
        return None if changed else weights_hash(components.folder)

    def later(request: GenerationRequest, made: Video) -> Callable[[], dict[str, object]]:
        return lambda: make_recipe(request, made, components, measures, inputs, weights()).metadata()

    return [
        made if request is None else replace(made, recipe=later(request, made))
        for made, request in zip(videos, requests, strict=True)
    ]
