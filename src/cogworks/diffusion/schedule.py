"""Noise schedules: the pair (alpha_t, sigma_t) and the walks over it.

x_t = alpha_t * x_0 + sigma_t * noise, with alpha_t**2 + sigma_t**2 = 1.
Letters: T training timesteps (0 is cleanest), N sampling steps.
Sources: zero terminal SNR, arXiv:2305.08891 algorithm 1; SNR shift and the `sat` spacing, SAT's discretizer.py;
the other spacings, arXiv:2305.08891 table 2, rounded as diffusers rounds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.errors import RequestError

Spacing = Literal["trailing", "leading", "linspace", "sat"]
ShiftPlacement = Literal["before_rescale", "before_rescale_keep_start", "after_rescale"]


def shift_snr(alpha_bar: Tensor, shift: float) -> Tensor:
    """Divide the signal-to-noise ratio of every timestep by `shift`.

    Args:
        alpha_bar: (T,) squared signal scale, in [0, 1].
        shift: dimensionless, > 0. 1 changes nothing; CogVideoX-2B uses 3.

    Returns:
        (T,) same dtype and order.

    Raises:
        ValueError: `shift` is not positive.

    Source: logSNR'(t) = logSNR(t) - log(shift).
    """
    if shift <= 0:
        raise ValueError(f"snr_shift must be positive, got {shift}; 1 leaves the schedule unshifted")
    return alpha_bar / (shift + (1 - shift) * alpha_bar)


def rescale_to_zero_snr(alpha: Tensor) -> Tensor:
    """Move and stretch `alpha` so that its last entry is exactly 0 and its first keeps its value.

    Args:
        alpha: (n,) signal scales, decreasing. A single entry becomes 0.

    Returns:
        (n,) same dtype and order.

    Source: arXiv:2305.08891 algorithm 1.
    """
    if len(alpha) == 1:
        return torch.zeros_like(alpha)
    first, last = alpha[0], alpha[-1]
    return (alpha - last) * (first / (first - last))


def alpha_table(config: ScheduleConfig, *, shift_placement: ShiftPlacement = "before_rescale") -> Tensor:
    """The signal scale of every training timestep.

    Args:
        shift_placement: where the SNR shift acts. `before_rescale` is what every published model uses.
            SAT has two more: `before_rescale_keep_start` lowers `beta_start` so that the shifted level of
            timestep 0 stays near its unshifted one; `after_rescale` shifts the rescaled table.

    Returns:
        (T,) float64 in [0, 1], index = timestep, decreasing.
    """
    if shift_placement == "after_rescale":
        alpha = _alpha_before_rescale(config, snr_shift=1.0)
        alpha = rescale_to_zero_snr(alpha) if config.zero_terminal_snr else alpha
        return shift_snr(alpha**2, config.snr_shift).sqrt()
    if shift_placement == "before_rescale_keep_start":
        start, shift = config.beta_start, config.snr_shift
        config = replace(config, beta_start=start / (shift + (1 - shift) * start))
    alpha = _alpha_before_rescale(config, snr_shift=config.snr_shift)
    return rescale_to_zero_snr(alpha) if config.zero_terminal_snr else alpha


def _alpha_before_rescale(config: ScheduleConfig, *, snr_shift: float) -> Tensor:
    """(T,) float64 signal scales of scaled-linear betas, shifted, their last entry still above 0."""
    root_start, root_end = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
    beta = torch.linspace(root_start, root_end, config.num_timesteps, dtype=torch.float64) ** 2
    return shift_snr(torch.cumprod(1 - beta, dim=0), snr_shift).sqrt()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a walk from noise to data. All levels are plain floats.

    Attributes:
        index: position in the walk, from 0.
        total: length of the walk (after `truncate`: of what is left of it).
        timestep: what the network is told: an integer of 0..T-1, or for EDM the logarithm of its noise, over 4.
        alpha: signal scale where the move starts.
        prediction_alpha: signal scale at which a prediction is turned into x_0. Equal to `alpha` except in the
            `sat` spacing, where it is the nearest entry of the table.
        next_alpha: signal scale where the move ends; 1 in the last step.
    """

    index: int
    total: int
    timestep: float
    alpha: float
    prediction_alpha: float
    next_alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < self.next_alpha <= 1:
            raise ValueError(
                f"a step must go from more noise to less, 0 <= alpha < next_alpha <= 1, "
                f"got alpha {self.alpha} and next_alpha {self.next_alpha} at timestep {self.timestep}"
            )

    @property
    def sigma(self) -> float:
        """Noise scale where the move starts; above 0 by construction."""
        return _sigma(self.alpha)

    @property
    def prediction_sigma(self) -> float:
        return _sigma(self.prediction_alpha)

    @property
    def next_sigma(self) -> float:
        """Noise scale where the move ends; exactly 0 in the last step."""
        return _sigma(self.next_alpha)

    @property
    def log_snr_half(self) -> float:
        """lambda = log(alpha / sigma); minus infinity at zero SNR."""
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def rho(self) -> float:
        """sqrt(SNR / next SNR) = exp(lambda - next lambda), in [0, 1).

        0 in the first step of a zero-SNR schedule and in the last step of any: finite where lambda is not.
        """
        return self.alpha * self.next_sigma / (self.sigma * self.next_alpha)


def _sigma(alpha: float) -> float:
    return math.sqrt((1 - alpha) * (1 + alpha))


class NoiseSchedule:
    """The tables alpha_t and sigma_t of one model, and the walks over them.

    Attributes:
        alpha: (T,) float64 on the CPU, index = timestep, decreasing; 0 at T-1 with zero terminal SNR.
        sigma: (T,) float64, sqrt(1 - alpha**2).
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.alpha = alpha_table(config)
        self.sigma = ((1 - self.alpha) * (1 + self.alpha)).sqrt()

    @property
    def num_timesteps(self) -> int:
        """T, 1000 in every published model."""
        return self.config.num_timesteps

    def timesteps_at(self, positions: Tensor) -> Tensor:
        """The timesteps floor(T p) that training learns from.

        Args:
            positions: (B,) p in [0, 1], from `draw_positions`.

        Returns:
            (B,) int64 in 0..T-1.
        """
        return (self.num_timesteps * positions).long().clamp(max=self.num_timesteps - 1)

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at integer `timesteps` of any shape: float64 on the CPU, same shape.

        Raises:
            ValueError: `timesteps` is not of an integer dtype, or an entry lies outside 0..T-1.
        """
        if timesteps.is_floating_point():
            raise ValueError(f"timesteps must be integers, got {timesteps.dtype}; round them first")
        index = timesteps.cpu().long()
        last = self.num_timesteps - 1
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) <= last:
            raise ValueError(f"timesteps must lie in 0..{last}, got {int(index.min())}..{int(index.max())}")
        return self.alpha[index], self.sigma[index]

    def timesteps(self, num_steps: int, spacing: Spacing | None = None) -> list[int]:
        """The timesteps of a walk of `num_steps`, noisiest first.

        Args:
            num_steps: 1..T.
            spacing: `trailing` starts at T-1, the pure noise of a zero-SNR schedule; `linspace` includes both
                ends; `leading` ends at 0 and starts below T-1; `sat` is SAT's list. None takes the config's.

        Raises:
            RequestError: `num_steps` is out of range or `spacing` is unknown.
        """
        total, spacing = self.num_timesteps, spacing or self.config.spacing
        if not 1 <= num_steps <= total:
            raise RequestError(f"the number of steps must lie in 1..{total}, got {num_steps}")
        if spacing == "trailing":
            # Cut: rounding makes arange one entry too long for some counts (docs/parity.md#trailing-length).
            found = np.round(np.arange(total, 0, -total / num_steps))[:num_steps] - 1
        elif spacing == "leading":
            found = (np.arange(num_steps) * (total // num_steps))[::-1]
        elif spacing == "linspace":
            found = np.linspace(0, total - 1, num_steps).round()[::-1]
        elif spacing == "sat":
            found = np.floor(np.linspace(total - 1, 0, num_steps, endpoint=False))
        else:
            raise RequestError(f"unknown timestep spacing {spacing!r}; expected one of {', '.join(get_args(Spacing))}")
        return [int(timestep) for timestep in found]

    def steps(self, num_steps: int, spacing: Spacing | None = None) -> list[Step]:
        """A walk of `num_steps` from noise to data. The next level is that of the next timestep; the last is alpha = 1.

        With spacing `sat` the zero-SNR rescaling acts on the chosen levels alone, and predictions are read at
        the nearest level of the full table: SAT's sampling, whose levels differ from the table's by up to 1e-2
        at 5 steps and 1e-3 at 50.

        Raises:
            RequestError: as `timesteps`.
        """
        spacing = spacing or self.config.spacing
        timesteps = self.timesteps(num_steps, spacing)
        if spacing == "sat":
            levels = self._subsampled_alphas(timesteps)
            nearest = (levels[:, None] - self.alpha).abs().argmin(dim=1)
            alphas, predictions = levels.tolist(), self.alpha[nearest].tolist()
        else:
            alphas = predictions = self.alpha[timesteps].tolist()
        return [
            Step(index=i, total=num_steps, timestep=t, alpha=alpha, prediction_alpha=prediction, next_alpha=next_alpha)
            for i, (t, alpha, prediction, next_alpha) in enumerate(
                zip(timesteps, alphas, predictions, [*alphas[1:], 1.0], strict=True)
            )
        ]

    def _subsampled_alphas(self, timesteps: list[int]) -> Tensor:
        """(N,) levels of `timesteps`, noisiest first, rescaled to zero SNR as if there were no others."""
        alpha = _alpha_before_rescale(self.config, snr_shift=self.config.snr_shift)[timesteps]
        if self.config.zero_terminal_snr:
            alpha = rescale_to_zero_snr(alpha.flip(0)).flip(0)  # the rescaling wants the cleanest first
        return alpha


def truncate(steps: Sequence[Step], strength: float) -> list[Step]:
    """The last int(N * strength) of N steps, renumbered: where video to video starts.

    The kept steps count from 0 and know the shortened total, which is what dynamic guidance reads.

    Args:
        strength: in [0, 1]. 1 keeps every step and forgets the source; less keeps more of it.

    Raises:
        RequestError: `strength` is outside [0, 1], or so small that no step is left.
    """
    if not (isinstance(strength, Real) and 0 <= strength <= 1):
        raise RequestError(f"strength must lie in [0, 1], got {strength!r}")
    kept = int(len(steps) * strength)
    if kept == 0:
        raise RequestError(
            f"strength {strength} of {len(steps)} steps leaves no step to run; "
            f"use at least {1 / max(len(steps), 1):.3g}, or more steps"
        )
    return [replace(step, index=i, total=kept) for i, step in enumerate(steps[len(steps) - kept :])]
