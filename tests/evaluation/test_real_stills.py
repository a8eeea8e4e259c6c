"""`tiny-i2v` on pictures that are nothing of its world: it does not break, and does its video begin with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cogworks
from cogworks.evaluation.case import Frames, Picture
from cogworks.evaluation.figures.metrics import first_frame_psnr
from cogworks.pipelines.generate import Pipeline
from cogworks.video import to_frames, to_pixels
from helpers.real_clips import CLIPS, first_frames

MODEL, SIDE = "tiny-i2v", 64
PROMPT = "a blue circle moves right on a gray background"
MAY_LOSE = 3.0  # dB against what the VAE alone gives back of the picture
BLACK = 16  # of 255: a mean below is no picture; the darkest of the three stills has 87
SMALLEST_SPREAD = 8  # of 255, standard deviation: a frame of one colour has 0


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return cogworks.load(MODEL, device="cpu", dtype="float32")


def still(name: str) -> Picture:
    return first_frames(name, 1, SIDE)[0]


@torch.no_grad()
def round_trip(pipeline: Pipeline, picture: Picture) -> Frames:
    """(1, H, W, 3): a picture through the VAE and back."""
    vae = pipeline.components.vae
    return to_frames(vae.decode(vae.encode(to_pixels(picture[None])).mean))


@pytest.fixture(scope="module", params=CLIPS)
def animated(request: pytest.FixtureRequest, pipeline: Pipeline) -> tuple[str, Frames]:
    """The name of a still, and the video that begins with it."""
    pixels = pipeline.generate(PROMPT, image=still(request.param), seed=1, output_type="np")[0]  # (T, H, W, 3) in 0..1
    assert np.isfinite(pixels).all()
    return request.param, (255 * pixels).round().astype(np.uint8)


def test_a_real_still_gives_a_video_that_is_something(animated: tuple[str, Frames]) -> None:
    _, frames = animated
    assert frames.mean(axis=(1, 2, 3)).min() > BLACK
    assert frames.std(axis=(1, 2, 3)).min() > SMALLEST_SPREAD


def test_a_real_still_begins_its_video(animated: tuple[str, Frames], pipeline: Pipeline) -> None:
    name, frames = animated
    picture = still(name)
    kept, possible = (first_frame_psnr(picture, shown) for shown in (frames, round_trip(pipeline, picture)))
    print(f"{name}: first frame {kept:.1f} dB, the VAE alone {possible:.1f} dB")
    assert kept > possible - MAY_LOSE, f"first frame {kept:.1f} dB, the VAE alone {possible:.1f} dB"


def test_another_still_is_told_from_the_first_frame(pipeline: Pipeline) -> None:
    """The negative control: the marks are not such that any picture would pass."""
    shown, other = still(CLIPS[0]), still(CLIPS[1])
    assert first_frame_psnr(other, shown[None]) < first_frame_psnr(other, round_trip(pipeline, other)) - MAY_LOSE
    assert np.zeros_like(shown).mean() < BLACK < min(still(name).mean() for name in CLIPS)
