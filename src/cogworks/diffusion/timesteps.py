"""Timestep draws for training.

Letters: T training timesteps (T-1 is noisiest), B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.errors import RecipeError


def draw_timesteps(
    batch: int, generator: torch.Generator, *, num_timesteps: int, power: float = 1.0, stratified: bool = True
) -> Tensor:
    """Random timesteps, floor(T * u**power) with u uniform in [0, 1).

    Args:
        generator: source of u; its device is the result's.
        power: > 0. 1 draws uniformly; below 1 favours high noise, the share of timesteps below t being
            (t / T)**(1 / power).
        stratified: spread the batch, one u in each of B equal intervals, in random order. Every entry alone has
            the same distribution as without; the mean loss of a batch varies less.

    Returns:
        (B,) int64 in 0..T-1.

    Raises:
        RecipeError: `batch` is below 1 or `power` is not positive.
    """
    if batch < 1:
        raise RecipeError(f"the batch must hold at least one sample, got {batch}")
    if power <= 0:
        raise RecipeError(f"the power of the timestep draw must be positive, got {power}; 1 draws uniformly")
    u = torch.rand(batch, generator=generator, dtype=torch.float64, device=generator.device)
    if stratified:
        u = (torch.randperm(batch, generator=generator, device=generator.device) + u) / batch
    # (B - 1 + u) / B can round up to 1.
    return (num_timesteps * u**power).long().clamp(max=num_timesteps - 1)
