"""The three ways to begin: from a prompt alone, from an image, from a video.

They differ in the latents that start, the step that starts and what is concatenated on channels, and in nothing
else.

Letters: B videos, C latent channels, t latent frames, T frames, H W pixels, h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cogworks.diffusion.prediction import add_noise
from cogworks.diffusion.schedule import Step, truncate
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior


class Noise(Protocol):
    """Where a run gets its random numbers: keyed by its seed, or in the order of diffusers."""

    def posterior(self, posterior: Posterior) -> Tensor:
        """A sample (B, C, t, h, w) of what the VAE encoded."""

    def start(self, like: Tensor) -> Tensor:
        """The noise a run starts from, shaped like `like`."""


class Start(NamedTuple):
    """Where sampling begins.

    Attributes:
        latents: (B, C, t, h, w) float32 state at the level of the first step.
        steps: the walk from there.
        image_latents: (B, C, t, h, w) to concatenate on channels, or None.
    """

    latents: Tensor
    steps: Sequence[Step]
    image_latents: Tensor | None = None


def text_to_video(latents: Tensor | None, empty: Tensor, steps: Sequence[Step], noise: Noise) -> Start:
    """Begin from pure noise shaped like `empty`, or from `latents` where the caller has them."""
    return Start(noise.start(empty) if latents is None else latents, steps)


def image_to_video(
    image: Tensor, latents: Tensor | None, empty: Tensor, steps: Sequence[Step], noise: Noise, vae: VAE
) -> Start:
    """Begin from pure noise, beside the latents of the first frame, followed by zeros.

    Args:
        image: (B, 3, 1, H, W) in [-1, 1].
    """
    encoded = vae.image_condition(noise.posterior(vae.encode(image)))
    condition = torch.zeros_like(empty)
    condition[:, :, :1] = encoded
    return Start(noise.start(empty) if latents is None else latents, steps, condition)


def video_to_video(
    pixels: Tensor, strength: float, latents: Tensor | None, steps: Sequence[Step], noise: Noise, vae: VAE
) -> Start:
    """Begin from the video, noised to the level of the first step that `strength` leaves.

    Args:
        pixels: (B, 3, T, H, W) in [-1, 1].
        latents: a state to begin from instead, at that level.
    """
    remaining = truncate(steps, strength)
    if latents is not None:
        return Start(latents, remaining)
    clean = vae.to_diffusion(noise.posterior(vae.encode(pixels))).float()
    first = remaining[0]
    return Start(add_noise(clean, noise.start(clean), first.alpha, first.sigma), remaining)
