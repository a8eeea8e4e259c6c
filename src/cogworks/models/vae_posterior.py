"""The posterior of the VAE: a normal distribution with its own mean and variance for every latent value.

Letters: B batch, C latent channels, t latent frames, h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """Mean and log-variance of the latents, each (B, C, t, h, w)."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Self:
        """(B, 2C, t, h, w), means then log-variances; the latter are clamped to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw latents (B, C, t, h, w): one normal number per value, on the generator's device, in the mean's dtype."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def mode(self) -> Tensor:
        """The most likely latents: the mean."""
        return self.mean

    def kl(self) -> Tensor:
        """Divergence from the standard normal distribution in nats, summed over each sample, averaged over B."""
        nats = 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)
        return nats.sum() / self.mean.shape[0]
