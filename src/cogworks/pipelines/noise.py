"""The two sources of randomness of a run: our keyed draws, and a generator used in diffusers' order.

Letters: B videos, C latent channels, t latent frames, h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from cogworks.diffusion.noise import DiffusersOrderNoise, KeyedNoise, NoiseSource
from cogworks.errors import RequestError
from cogworks.models.vae_posterior import Posterior
from cogworks.pipelines.geometry import check_whole
from cogworks.rng import generator_for


class RunNoise(NoiseSource, Protocol):
    """All random numbers of one run."""

    def posterior(self, posterior: Posterior) -> Tensor:
        """A sample (B, C, t, h, w) of what the VAE encoded."""

    def start(self, like: Tensor) -> Tensor:
        """The noise that a run starts from, shaped like `like`."""


class SeededNoise(KeyedNoise):
    """Draws keyed by (seed, sample): the same alone and in a batch, in every dtype."""

    def posterior(self, posterior: Posterior) -> Tensor:
        in_float32 = Posterior(posterior.mean.float(), posterior.logvar.float())
        return _sample_each(in_float32, [generator_for(seed, sample, "posterior") for seed, sample in self.keys])


class GeneratorNoise(DiffusersOrderNoise):
    """Draws from the caller's generator in the order of diffusers' pipelines: posterior, start, moves."""

    def posterior(self, posterior: Posterior) -> Tensor:
        batch = len(posterior.mean)
        generators = [self.generator] * batch if isinstance(self.generator, torch.Generator) else self.generator
        return _sample_each(posterior, generators)


def choose_noise(
    seed: int | list[int] | None,
    generator: torch.Generator | list[torch.Generator] | None,
    num_prompts: int,
    num_videos: int,
    dtype: torch.dtype,
) -> RunNoise:
    """The numbers of a run of `num_prompts` times `num_videos` videos.

    Args:
        seed: one for all prompts, or one each; None draws one. Video j of a prompt is keyed (seed, j).
        generator: instead of a seed: one for all videos, or one each.
        dtype: of what a generator draws: that of the text embeddings, in diffusers.

    Raises:
        RequestError: both are given, not as many as are needed, or what is no whole number.
    """
    if check_whole("num_videos_per_prompt", num_videos) < 1:
        raise RequestError(f"num_videos_per_prompt must be at least 1, got {num_videos}")
    if generator is not None:
        if seed is not None:
            raise RequestError("give a seed or a generator, not both")
        if isinstance(generator, list) and len(generator) != num_prompts * num_videos:
            raise RequestError(
                f"got {len(generator)} generators for {num_prompts * num_videos} videos; give one, or one for each"
            )
        return GeneratorNoise(generator, dtype)
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    seeds = seed if isinstance(seed, list) else [seed] * num_prompts
    if len(seeds) != num_prompts:
        raise RequestError(f"got {len(seeds)} seeds for {num_prompts} prompts; give one, or one for each")
    return SeededNoise([(check_whole("a seed", each), sample) for each in seeds for sample in range(num_videos)])


def _sample_each(posterior: Posterior, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, C, t, h, w), one video after the other."""
    samples = [
        Posterior(mean[None], logvar[None]).sample(generator)
        for mean, logvar, generator in zip(posterior.mean, posterior.logvar, generators, strict=True)
    ]
    return torch.cat(samples)
