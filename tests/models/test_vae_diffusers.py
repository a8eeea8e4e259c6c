"""The VAE against diffusers' with the same random weights: values, gradients, chunks."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from cogworks.models.vae import VAE
from cogworks.nn.time_context import Start
from helpers.vae_reference import RENAMED_FROM_DIFFUSERS, random_clip, rename, vae_pair

# Outputs reach 15; the spatial norm multiplies before it resizes, which reorders sums of four terms: 1.4e-5 measured.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def pair() -> tuple[VAE, AutoencoderKLCogVideoX]:
    return vae_pair()


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(16, 24), (32, 16)])
@pytest.mark.parametrize("frames", [1, 4, 5, 8, 9, 12, 13, 16, 17])
def test_encode(pair: tuple[VAE, AutoencoderKLCogVideoX], frames: int, height: int, width: int) -> None:
    ours, theirs = pair
    pixels = random_clip(2, 3, frames, height, width)
    posterior, reference = ours.encode(pixels), theirs.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mean, reference.mean, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(posterior.logvar, reference.logvar, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(2, 3), (4, 2)])
@pytest.mark.parametrize("latent_frames", [1, 2, 3, 4, 5])
def test_decode(pair: tuple[VAE, AutoencoderKLCogVideoX], latent_frames: int, height: int, width: int) -> None:
    ours, theirs = pair
    latents = random_clip(2, 4, latent_frames, height, width)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(latents).sample, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_other_cuts_differ(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    """The negative control: without carried frames, or in one piece, the same clip comes out otherwise."""
    ours, theirs = pair
    pixels, latents = random_clip(1, 3, 17, 16, 24), random_clip(1, 4, 5, 2, 3)
    encoded, decoded = theirs.encode(pixels).latent_dist.mean, theirs.decode(latents).sample
    forgetful = torch.cat([ours.encode(piece).mean for piece in pixels.split([9, 8], dim=2)], dim=2)
    assert (forgetful - encoded).abs().max() > 0.1
    assert (ours.encode(pixels, rule="whole").mean - encoded).abs().max() > 0.1
    forgetful = torch.cat([ours.decode(piece) for piece in latents.split([3, 2], dim=2)], dim=2)
    assert (forgetful - decoded).abs().max() > 0.1
    assert (ours.decode(latents, rule="whole") - decoded).abs().max() > 0.1


@torch.no_grad()
def test_sample_draws_the_same_numbers(pair: tuple[VAE, AutoencoderKLCogVideoX]) -> None:
    ours, theirs = pair
    pixels = random_clip(2, 3, 5, 16, 24)
    sample = ours.encode(pixels).sample(torch.Generator().manual_seed(7))
    reference = theirs.encode(pixels).latent_dist
    expected = reference.sample(torch.Generator().manual_seed(7))
    torch.testing.assert_close(sample, expected, atol=TOLERANCE, rtol=0)
    assert (sample - reference.sample(torch.Generator().manual_seed(8))).abs().max() > 0.1


def test_gradients() -> None:
    """Every parameter's gradient of a round trip of one piece, relative to the largest of its tensor."""
    ours, theirs = vae_pair()
    pixels = random_clip(1, 3, 9, 16, 24)
    moments = ours.encoder(pixels, Start())
    ours.decoder(moments[:, :4], Start()).square().mean().backward()
    theirs.decode(theirs.encode(pixels).latent_dist.mean).sample.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    unused = 0
    for name, parameter in theirs.named_parameters():
        gradient = gradients[rename(name, RENAMED_FROM_DIFFUSERS)]
        assert gradient is not None
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        unused += scale == 0
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-3 * scale + 1e-7, rtol=0, msg=name)
    assert unused == 0
