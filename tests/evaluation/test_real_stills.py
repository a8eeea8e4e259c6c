"""`tiny-i2v` on pictures that are nothing of its world: it does not break, and its first frame is still the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cogworks
from cogworks.errors import WeightsError
from cogworks.evaluation.case import Frames, Picture
from cogworks.evaluation.figures.metrics import first_frame_psnr
from cogworks.pipelines.generate import Pipeline
from cogworks.video import to_frames, to_pixels
from cogworks.weights.fingerprint import weight_files
from cogworks.weights.source import resolve
from helpers.real_clips import CLIPS, first_frames

MODEL, SIDE = "tiny-i2v", 64
PROMPT = "a blue circle moves right on a gray background"
MAY_LOSE = 3.0  # dB against what the VAE alone gives back of the picture
BLACK = 16  # of 255: a mean below is no picture; the darkest of the three stills has 87
SMALLEST_SPREAD = 8  # of 255, standard deviation: a frame of one colour has 0


def bundled() -> bool:
    """Whether the weights are there."""
    try:
        return bool(weight_files(resolve(MODEL)))
    except WeightsError:
        return False


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not bundled(), reason=f"{MODEL} is not bundled")]


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


@pytest.mark.parametrize("name", CLIPS)
def test_a_real_still_begins_its_video(name: str, pipeline: Pipeline) -> None:
    picture = still(name)
    pixels = pipeline.generate(PROMPT, image=picture, seed=1, output_type="np")[0]  # (T, H, W, 3) in 0..1
    assert np.isfinite(pixels).all()
    frames = (255 * pixels).round().astype(np.uint8)
    assert frames.mean(axis=(1, 2, 3)).min() > BLACK
    assert frames.std(axis=(1, 2, 3)).min() > SMALLEST_SPREAD
    kept, possible = (first_frame_psnr(picture, shown) for shown in (frames, round_trip(pipeline, picture)))
    assert kept > possible - MAY_LOSE, f"first frame {kept:.1f} dB, the VAE alone {possible:.1f} dB"


def test_another_still_is_told_from_the_first_frame(pipeline: Pipeline) -> None:
    """The negative control: the marks are not such that any picture would pass."""
    shown, other = still(CLIPS[0]), still(CLIPS[1])
    assert first_frame_psnr(other, shown[None]) < first_frame_psnr(other, round_trip(pipeline, other)) - MAY_LOSE
    assert np.zeros_like(shown).mean() < BLACK < min(still(name).mean() for name in CLIPS)
