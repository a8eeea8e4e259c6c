"""Which noise levels a training step learns from.

A draw is made as positions in [0, 1), the shares of noise levels below each sample's, which a schedule turns into
timesteps (`timesteps_at`). Spread over all samples of a step (parallel uniform sampling) they leave less to chance:
t = floor(T (r + u) / n) with u uniform puts exactly one draw in each of n stretches r, and every timestep is still as
likely as without.

Letters: T training timesteps (T-1 is noisiest), B batch of one replica, n samples of a step over all replicas.
Source: explicit uniform sampling, CogVideoX, arXiv:2408.06072, section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cogworks.diffusion.partition import NUM_TIMESTEPS, interval_head, interval_v10
from cogworks.errors import RecipeError

Draw = Literal["spread", "independent", "sat_v10", "sat_head"]
_INTERVALS: dict[str, Callable[[int, int], tuple[int, int]]] = {"sat_v10": interval_v10, "sat_head": interval_head}


def draw_positions(
    batch: int,
    generator: torch.Generator,
    *,
    draw: Draw = "spread",
    power: float = 1.0,
    replica: int = 0,
    replicas: int = 1,
    shared_generator: torch.Generator | None = None,
) -> Tensor:
    """Random positions u**power among the noise levels, with u uniform in [0, 1).

    Args:
        batch: B, the same on every replica.
        generator: this replica's source; its device is the result's.
        draw: "spread", one u in each of n = replicas * B equal stretches, which are dealt out anew in every step;
            "independent"; or SAT's, every u of a replica in the interval that `partition` gives it.
        power: > 0. 1 draws uniformly; below 1 favours high noise, the share of positions below p being p**(1 / power).
        replica, replicas: which of how many draw together.
        shared_generator: deals out the stretches. Key it by seed and step alone, so that it is in the same state on
            all replicas; needed to spread over several.

    Returns:
        (B,) float64 in [0, 1]; 1 by rounding alone. Each by itself is distributed as if drawn alone, except SAT's.

    Raises:
        RecipeError: `batch` is below 1, `power` is not positive, or SAT's intervals do not fit the replicas.
        ValueError: several replicas have nothing shared to spread by.
    """
    if batch < 1:
        raise RecipeError(f"the batch must hold at least one sample, got {batch}")
    if power <= 0:
        raise RecipeError(f"the power of the timestep draw must be positive, got {power}; 1 draws uniformly")
    u = torch.rand(batch, generator=generator, dtype=torch.float64, device=generator.device)
    if draw == "spread":
        if shared_generator is None and replicas > 1:
            raise ValueError("replicas that spread their draws together need a shared generator, one state for all")
        dealer = shared_generator or generator
        dealt = torch.randperm(replicas * batch, generator=dealer, device=dealer.device)
        mine = dealt[replica * batch : (replica + 1) * batch].to(u.device)
        u = (mine + u) / (replicas * batch)
    elif draw != "independent":
        low, high = _INTERVALS[draw](replica, replicas)
        u = (low + (high - low) * u) / NUM_TIMESTEPS
    return u**power
