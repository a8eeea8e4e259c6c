"""The two sources of randomness of a run: our keyed draws, and a generator used in diffusers' order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogworks.diffusion.noise import DiffusersOrderNoise, KeyedNoise
from cogworks.models.vae_posterior import Posterior
from cogworks.rng import generator_for


class SeededNoise(KeyedNoise):
    """Draws keyed by (seed, sample): the same alone and in a batch."""

    def posterior(self, posterior: Posterior) -> Tensor:
        return _sample_each(posterior, [generator_for(seed, sample, "posterior") for seed, sample in self.keys])


class GeneratorNoise(DiffusersOrderNoise):
    """Draws from the caller's generator in the order of diffusers' pipelines: posterior, start, moves."""

    def posterior(self, posterior: Posterior) -> Tensor:
        batch = len(posterior.mean)
        generators = [self.generator] * batch if isinstance(self.generator, torch.Generator) else self.generator
        return _sample_each(posterior, generators)


def _sample_each(posterior: Posterior, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, C, t, h, w), one sample after the other."""
    samples = [
        Posterior(mean[None], logvar[None]).sample(generator)
        for mean, logvar, generator in zip(posterior.mean, posterior.logvar, generators, strict=True)
    ]
    return torch.cat(samples)
