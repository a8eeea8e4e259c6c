"""Where samplers get their Gaussian numbers, so that the order of the draws is nobody else's business; offset noise.

Layout: states are `B C T H W`. Sources: of the reference order, diffusers' CogVideoXDPMScheduler.step and
randn_tensor; of offset noise, SAT's loss.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cogworks.diffusion.schedule import Step
from cogworks.errors import RequestError
from cogworks.rng import generator_for


class NoiseSource(Protocol):
    """Noise for the moves of a walk. In every step, in order, a sampler calls either `next` or `skip`."""

    def next(self, step: Step, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and device of `like`."""

    def skip(self, step: Step, like: Tensor) -> None:
        """The move of `step` ends in clean data and adds no noise: keep the order of the draws."""


@dataclass(frozen=True)
class KeyedNoise:
    """Noise that depends on (seed, sample, purpose, step index) alone: not on the batch, the order or the process.

    Attributes:
        keys: one (seed, sample) for each sample of the batch.
        purpose: keeps streams apart that share keys, for example "move" and "prefix".
    """

    keys: Sequence[tuple[int, int]]
    purpose: str = "move"

    def next(self, step: Step, like: Tensor) -> Tensor:
        return self._draw(like, step.index)

    def skip(self, step: Step, like: Tensor) -> None:
        """Nothing to keep in order: every draw has its own key."""

    def start(self, like: Tensor) -> Tensor:
        """The noise a walk starts from, in the shape, dtype and device of `like`."""
        return self._draw(like, "start")

    def _draw(self, like: Tensor, moment: int | str) -> Tensor:
        if len(self.keys) != len(like):
            raise RequestError(f"noise was keyed for {len(self.keys)} samples, but the batch has {len(like)}")
        draws = [
            torch.randn(like.shape[1:], generator=generator_for(seed, sample, self.purpose, moment))
            for seed, sample in self.keys
        ]
        return torch.stack(draws).to(dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class DiffusersOrderNoise:
    """Noise drawn in the order, shape, dtype and device in which diffusers' CogVideoX pipelines draw it.

    Reference quirk: every step but the first and the last draws twice and discards the first draw; the last draws
    once and weighs it with 0 (docs/parity.md#draws).

    Attributes:
        generator: one for the batch, or one for each sample, as diffusers takes it.
        dtype: of the numbers drawn; diffusers uses that of the text embeddings.
    """

    generator: torch.Generator | Sequence[torch.Generator]
    dtype: torch.dtype

    def next(self, step: Step, like: Tensor) -> Tensor:
        if step.index > 0:
            self.start(like)
        return self.start(like)

    def skip(self, step: Step, like: Tensor) -> None:
        self.start(like)

    def start(self, like: Tensor) -> Tensor:
        """One draw: the noise a walk starts from, in the shape, dtype and device of `like`."""
        batch, channels, frames, height, width = like.shape
        if isinstance(self.generator, torch.Generator):
            draw = self._draw(self.generator, (batch, frames, channels, height, width))
        elif len(self.generator) == batch:
            draw = torch.cat([self._draw(each, (1, frames, channels, height, width)) for each in self.generator])
        else:
            raise RequestError(
                f"got {len(self.generator)} generators for a batch of {batch}; pass one, or one a sample"
            )
        return draw.transpose(1, 2).to(dtype=like.dtype, device=like.device)

    def _draw(self, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=self.dtype, device=generator.device)


def offset_noise(noise: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Noise for training whose mean varies too, so that a network learns to make all of a sample brighter or darker.

    Args:
        noise: (B, ...) standard normal.
        level: standard deviation of the number that is added to all of a sample.
        generator: source of the B numbers.

    Returns:
        (B, ...) in the dtype and on the device of `noise`.
    """
    offset = torch.randn(len(noise), generator=generator, device=generator.device).to(noise)
    return noise + level * offset.view(-1, *[1] * (noise.ndim - 1))
