"""EDM: noise levels without a table, drawn log-normally in training and walked by powers in sampling.

EDM leaves data unscaled beside noise of standard deviation s. Here that is the pair alpha = 1 / sqrt(1 + s**2),
sigma = s / sqrt(1 + s**2): the state of an EDM sampler times alpha. Samplers, guidance and loss need nothing more.
Letters: B batch, N sampling steps, s the standard deviation of EDM's noise, log(s) / 4 what the network is told.
Source: arXiv:2206.00364, equation 5 and table 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cogworks.config.architecture import EDMScheduleConfig, ScheduleConfig
from cogworks.diffusion.schedule import NoiseSchedule, Step
from cogworks.errors import RequestError

LOG_MEAN, LOG_STD = -1.2, 1.2  # of s in training


def noise_schedule(config: ScheduleConfig | EDMScheduleConfig) -> NoiseSchedule | EDMSchedule:
    """The schedule of one model: a table of timesteps, or EDM's levels."""
    return NoiseSchedule(config) if isinstance(config, ScheduleConfig) else EDMSchedule(config)


class EDMSchedule:
    """The noise levels of a network in EDM's form, and the walks over them; stands in for `NoiseSchedule`."""

    def __init__(self, config: EDMScheduleConfig) -> None:
        self.config = config

    def timesteps_at(self, positions: Tensor, *, log_mean: float = LOG_MEAN, log_std: float = LOG_STD) -> Tensor:
        """What the network is told at the noise levels that training learns from.

        Args:
            positions: (B,) in [0, 1], the share of noise levels below each, from `draw_positions`.
            log_mean, log_std: log(s) is normal with these.

        Returns:
            (B,) float64, log(s) / 4.
        """
        least = torch.finfo(torch.float64).eps  # the ends lie infinitely far away
        normal = torch.special.ndtri(positions.double().clamp(least, 1 - least))
        return (log_mean + log_std * normal) / 4

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at timesteps log(s) / 4 of any shape: float64 on the CPU, same shape."""
        log_s = 4 * timesteps.double().cpu()
        # 1 / sqrt(1 + s**2) and s / sqrt(1 + s**2), without the overflow of s**2.
        return torch.sigmoid(-2 * log_s).sqrt(), torch.sigmoid(2 * log_s).sqrt()

    def steps(self, num_steps: int) -> list[Step]:
        """A walk of `num_steps` from s = sigma_max over sigma_min to data.

        Raises:
            RequestError: `num_steps` is below 1.
        """
        if num_steps < 1:
            raise RequestError(f"the number of steps must be at least 1, got {num_steps}")
        config, last = self.config, max(1, num_steps - 1)
        begin, end = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
        levels = [(begin + i / last * (end - begin)) ** config.rho for i in range(num_steps)]
        alphas = [1 / math.hypot(1, s) for s in levels]
        return [
            Step(
                index=i,
                total=num_steps,
                timestep=math.log(s) / 4,
                alpha=alpha,
                prediction_alpha=alpha,
                next_alpha=next_alpha,
            )
            for i, (s, alpha, next_alpha) in enumerate(zip(levels, alphas, [*alphas[1:], 1.0], strict=True))
        ]
