"""Numbers that are not finite: the first culprit is named, whichever network it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cogworks.errors import NumericsError, RequestError
from cogworks.pipelines.generate import Pipeline
from cogworks.video import Video

Small = Callable[..., Pipeline]
CLIP = np.zeros((9, 32, 32, 3), np.uint8)


def poison(pipeline: Pipeline, path: str, value: float) -> None:
    part, _, name = path.partition(".")
    with torch.no_grad():
        getattr(pipeline.components, part).get_parameter(name).view(-1)[-1] = value


# The last value of the encoder's result is a log-variance.
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "path", "asked", "sentence"),
    [
        ("small", "text_encoder.norm_out.weight", {}, "the text encoder's embedding of 'a red circle' is not finite"),
        ("small-i2v", "vae.encoder.conv_out.bias", {"image": CLIP[0]}, "what the VAE encodes the image to is not"),
        ("small", "vae.encoder.conv_in.bias", {"video": Video(CLIP, 8)}, "what the VAE encodes the video to is not"),
        (
            "small",
            "transformer.proj_out.bias",
            {"num_inference_steps": 4},
            r"the transformer's prediction at step 1 of 4 \(timestep 999\) is not finite",
        ),
        ("small", "vae.decoder.conv_out.bias", {}, "what the VAE decodes to frames 1 to 9 is not finite"),
    ],
)
def test_the_first_culprit_is_named(
    fresh: Small, name: str, path: str, asked: dict[str, Any], sentence: str, value: float
) -> None:
    pipeline = fresh(name)
    pipeline.generate("a red circle", **asked)
    pipeline.prompts = type(pipeline.prompts)(pipeline.components)  # forget the prompt
    poison(pipeline, path, value)
    with pytest.raises(NumericsError, match=sentence) as caught:
        pipeline.generate("a red circle", **asked)
    assert "its weights may be damaged: `cogworks doctor` checks" in str(caught.value)


def test_the_step_is_that_of_the_first_fault(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fresh("small")

    def poison_after(progress: Any) -> None:
        if (progress.phase, progress.done) == ("steps", 2):
            poison(pipeline, "transformer.proj_out.bias", float("nan"))

    with pytest.raises(NumericsError, match=r"prediction at step 3 of 5 \(timestep 599\) is not finite"):
        pipeline.generate("a", num_inference_steps=5, on_progress=poison_after)


def test_in_a_narrow_dtype_the_advice_is_another_one(fresh: Small) -> None:
    pipeline = fresh("small", dtype="bf16")
    poison(pipeline, "transformer.proj_out.bias", float("inf"))
    with pytest.raises(NumericsError, match=r"it overflowed in bfloat16: try dtype float32$"):
        pipeline.generate("a")


def test_what_a_callback_returns_is_checked(small: Small) -> None:
    def callback(pipeline: Pipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> Any:
        return {"latents": tensors["latents"] / 0}

    with pytest.raises(RequestError, match="latents, which callback_on_step_end returned, holds values that are not"):
        small("small").generate("a", callback_on_step_end=callback)
