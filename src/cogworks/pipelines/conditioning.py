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
    """Begin from pure noise, or from latents at the level of the first step.

    Args:
        latents: (B, C, t, h, w) to begin from instead of noise.
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
    """
    return Start(noise.start(blank) if latents is None else latents)


def image_to_video(image: Posterior, latents: Tensor | None, blank: Tensor, noise: RunNoise, vae: VAE) -> Start:
    """Begin from pure noise, beside the latents of the first frame, followed by zeros.

    Args:
        image: what the VAE encodes the image to, (1, C, 1, h, w).
        latents: (B, C, t, h, w) to begin from instead of noise.
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
    """
    encoded = vae.image_condition(_samples(image, len(blank), noise))
    condition = torch.cat([encoded.to(blank.dtype), blank[:, :, 1:]], dim=2)
    return Start(noise.start(blank) if latents is None else latents, condition)


def video_to_video(video: Posterior, blank: Tensor, first: Step, noise: RunNoise, vae: VAE) -> Start:
    """Begin from a video, noised to the level of the first step.

    Args:
        video: what the VAE encodes it to, (1, C, t, h, w).
        blank: (B, C, t, h, w) zeros, float32: what the state looks like.
        first: the first of the steps that `strength` leaves.
    """
    clean = vae.to_diffusion(_samples(video, len(blank), noise)).to(blank.dtype)
    return Start(add_noise(clean, noise.start(clean), first.alpha, first.sigma))


def _samples(posterior: Posterior, batch: int, noise: RunNoise) -> Tensor:
    """(B, C, t, h, w): a sample for each video."""
    shape = (batch, -1, -1, -1, -1)
    return noise.posterior(Posterior(posterior.mean.expand(shape), posterior.logvar.expand(shape)))
