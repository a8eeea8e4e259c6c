"""The closed-form codec: shapes, orthogonality, and that more channels never reconstruct worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogworks.config.training_data import ShapesData
from cogworks.training.clips.batches import ShapesBatches
from cogworks.training.vae.linear_codec import LinearCodec

DATA = ShapesData(seed=5, size=32, frames=9)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return ShapesBatches(DATA, 24)[0].pixels


def _error(pixels: Tensor, channels: int) -> float:
    codec = LinearCodec.fit(pixels, channels)
    return float((codec.decode(codec.encode(pixels)) - pixels).square().mean())


def test_latents_have_the_shape_of_the_vae_and_unit_scale(pixels: Tensor) -> None:
    latents = LinearCodec.fit(pixels, 8).encode(pixels)
    assert latents.shape == (24, 8, 3, 4, 4)
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        assert abs(float(part.square().mean().sqrt()) - 1) < 1e-3


def test_more_channels_reconstruct_better(pixels: Tensor) -> None:
    errors = [_error(pixels, channels) for channels in (1, 4, 16)]
    assert errors[0] > errors[1] > errors[2]


def test_encoding_a_decoded_clip_gives_its_latents(pixels: Tensor) -> None:
    codec = LinearCodec.fit(pixels, 8)
    latents = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_codec_is_the_same(pixels: Tensor, tmp_path: Path) -> None:
    codec = LinearCodec.fit(pixels, 4)
    codec.save(tmp_path / "codec.safetensors")
    assert torch.equal(LinearCodec.load(tmp_path / "codec.safetensors").encode(pixels), codec.encode(pixels))
