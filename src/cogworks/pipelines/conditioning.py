"""The three ways to begin: from a prompt alone, from an image, from a video.

They differ in the latents that start and in what is concatenated on channels, and in nothing else.

Letters: B videos, C latent channels, t latent frames, T frames, H W pixels, h w latents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cogworks.diffusion.prediction import add_noise
from cogworks.diffusion.schedule import Step
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior
from cogworks.pipelines.noise import RunNoise


class Start(NamedTuple):
    """Where sampling begins.

    Attributes:
        latents: (B, C, t, h, w) float32 state at the level of the first step.
        image_latents: (B, C, t, h, w) to concatenate on channels, or None.
    """

    latents: Tensor
    image_latents: Tensor | None = None


def text_to_video(latents: Tensor | None, blank: Tensor, noise: RunNoise) -> Start:
    """Begin from pure noise.

    Args:
        latents: (B, C, t, h, w) to begin from instead of noise.
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
    """
    return Start(noise.start(blank) if latents is None else latents)


def image_to_video(image: Tensor, latents: Tensor | None, blank: Tensor, noise: RunNoise, vae: VAE) -> Start:
    """Begin from pure noise, beside the latents of the first frame, followed by zeros.

    Args:
        image: (1, 3, 1, H, W) in [-1, 1].
        latents: (B, C, t, h, w) to begin from instead of noise.
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
    """
    encoded = vae.image_condition(_encode(image, len(blank), noise, vae))
    condition = torch.cat([encoded.to(blank.dtype), blank[:, :, 1:]], dim=2)
    return Start(noise.start(blank) if latents is None else latents, condition)


def video_to_video(
    pixels: Tensor, latents: Tensor | None, blank: Tensor, first: Step, noise: RunNoise, vae: VAE
) -> Start:
    """Begin from a video, noised to the level of the first step.

    Args:
        pixels: (1, 3, T, H, W) in [-1, 1].
        latents: (B, C, t, h, w) at that level, to begin from instead.
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
        first: the first of the steps that `strength` leaves.
    """
    if latents is not None:
        return Start(latents)
    clean = vae.to_diffusion(_encode(pixels, len(blank), noise, vae)).to(blank.dtype)
    return Start(add_noise(clean, noise.start(clean), first.alpha, first.sigma))


def _encode(pixels: Tensor, batch: int, noise: RunNoise, vae: VAE) -> Tensor:
    """(B, C, t, h, w) latents of one clip, a sample of the posterior for each video."""
    weight = next(vae.parameters())
    posterior = vae.encode(pixels.to(weight))
    shape = (batch, -1, -1, -1, -1)
    return noise.posterior(Posterior(posterior.mean.expand(shape), posterior.logvar.expand(shape)))
