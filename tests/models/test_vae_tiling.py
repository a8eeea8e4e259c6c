"""Spatial tiling against diffusers' with the same random weights, and its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogworks.errors import RequestError
from cogworks.models.vae import VAE
from cogworks.models.vae_tiling import Tiling, blend, decode_tiled, decode_tiled_stream, encode_tiled
from helpers.vae_reference import SMALL_CONFIG, random_clip, vae_pair

TOLERANCE = 5e-5  # as without tiles (test_vae_diffusers.py)
TILING = Tiling(height=32, width=24, overlap_height=1 / 4, overlap_width=1 / 3)
# Tiles of 4x3 latents every 3x2: several, one that is cut off at the border, one direction that fits in a tile.
SIZES = [(5, 5), (4, 7), (8, 3)]


@pytest.fixture(scope="module")
def pair() -> tuple[VAE, AutoencoderKLCogVideoX]:
    ours, theirs = vae_pair()
    theirs.enable_tiling(TILING.height, TILING.width, TILING.overlap_height, TILING.overlap_width)
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_encode_tiled(pair: tuple[VAE, AutoencoderKLCogVideoX], height: int, width: int) -> None:
    ours, theirs = pair
    pixels = random_clip(1, 3, 5, 8 * height, 8 * width)
    posterior, reference = encode_tiled(ours, pixels, TILING), theirs.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mean, reference.mean, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(posterior.logvar, reference.logvar, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_decode_tiled(pair: tuple[VAE, AutoencoderKLCogVideoX], height: int, width: int) -> None:
    ours, theirs = pair
    latents = random_clip(1, 4, 2, height, width)
    reference = theirs.decode(latents).sample
    torch.testing.assert_close(decode_tiled(ours, latents, TILING), reference, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_several_chunks_in_each_tile(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    ours, theirs = pair
    latents = random_clip(1, 4, 5, 2, 4)
    reference = theirs.decode(latents).sample
    torch.testing.assert_close(decode_tiled(ours, latents, TILING), reference, atol=TOLERANCE, rtol=0)
    streamed = list(decode_tiled_stream(ours, latents, TILING))
    assert [piece.shape[2] for piece in streamed] == [9, 8]
    torch.testing.assert_close(torch.cat(streamed, dim=2), reference, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_blending_and_tiling_matter(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    """The negative control: without tiles, and with tiles that are not blended, the result is another."""
    ours, theirs = pair
    latents = random_clip(1, 4, 2, 4, 6)
    reference = theirs.decode(latents).sample
    abutting = replace(TILING, overlap_height=0.0, overlap_width=0.0)
    assert (ours.decode(latents) - reference).abs().max() > 0.1
    assert (decode_tiled(ours, latents, abutting) - reference).abs().max() > 0.1


@torch.no_grad()
def test_one_tile_is_no_tiling(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    ours, _ = pair
    latents, pixels = random_clip(1, 4, 1, 4, 3), random_clip(1, 3, 1, 32, 24)
    assert torch.equal(decode_tiled(ours, latents, TILING), ours.decode(latents))
    assert torch.equal(next(decode_tiled_stream(ours, latents, TILING)), ours.decode(latents))
    assert torch.equal(encode_tiled(ours, pixels, TILING).mean, ours.encode(pixels).mean)


def test_blend_is_linear() -> None:
    before, after = torch.zeros(1, 1, 1, 6, 2), torch.ones(1, 1, 1, 5, 2)
    assert blend(before, after, 4, dim=3)[0, 0, 0, :, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert torch.equal(blend(before, after, 0, dim=3), after)


def test_defaults_are_the_published_tiles() -> None:
    published = Tiling.for_config(replace(SMALL_CONFIG, sample_size=(480, 720)))
    assert published == Tiling(height=240, width=360, overlap_height=1 / 6, overlap_width=1 / 5)


def test_errors(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    ours, _ = pair
    with pytest.raises(RequestError, match="multiple of 8 pixels, got 20"):
        decode_tiled(ours, torch.zeros(1, 4, 1, 8, 8), Tiling(height=20, width=16))
    with pytest.raises(RequestError, match=r"overlap_width .* got 1\.0"):
        Tiling(height=16, width=16, overlap_width=1.0)
