"""Samplers: functions that walk a state from noise to data.

A sampler knows no network: `denoise(x_t, step) -> x_0` hides guidance, conditioning and prediction kind.
States are `B C T H W`, float32 (float64 stays); coefficients are Python floats. No update divides by alpha or takes
lambda = log(alpha / sigma) where it is infinite, so zero SNR at the start and zero noise at the end need no special
case. Primes below mark the level a move ends at; rho = exp(lambda - lambda') = alpha sigma' / (sigma alpha').
Sources: DDIM, arXiv:2010.02502; ancestral DDPM, arXiv:2006.11239 eq. 7; DPM-Solver++(2M) and its SDE form,
arXiv:2211.01095; fixed prefix frames, SAT's sampling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cogworks.diffusion.noise import NoiseSource
from cogworks.diffusion.prediction import add_noise, as_state
from cogworks.diffusion.schedule import Step
from cogworks.errors import RequestError

Denoise = Callable[[Tensor, Step], Tensor]
Callback = Callable[[Step, Tensor, Tensor], Tensor | None]
Estimate = tuple[Step, Tensor]
"""A step and the x_0 that was estimated there."""
_Move = Callable[[Tensor, Tensor, Step, Estimate | None], Tensor]


class Sampler(Protocol):
    """Walk `x` through `steps` and return the clean state.

    Args:
        denoise: (x_t, step) -> the x_0 estimate, same shape.
        x: (B, C, T, H, W) state at the level where the first step starts.
        steps: a walk, from `NoiseSchedule.steps` or what `truncate` leaves of it.
        noise: numbers for the moves. The deterministic samplers take it, to be called alike, and draw nothing.
        callback: called after every step with (step, the new state, its x_0 estimate); a tensor it returns
            replaces the state.
        prefix: known first frames.
        previous: the last step before `steps` and its estimate, to go on with a walk that was interrupted after it: `x`
            is then the state it left, and the result is bitwise that of the whole walk.

    Returns:
        (B, C, T, H, W) float32, or float64 where `x` is.

    Raises:
        RequestError: no steps, or a prefix that does not fit `x`.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        steps: Sequence[Step],
        *,
        noise: NoiseSource,
        callback: Callback | None = None,
        prefix: FixedPrefix | None = None,
        previous: Estimate | None = None,
    ) -> Tensor: ...


def ddim(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Step],
    *,
    noise: NoiseSource | None = None,
    callback: Callback | None = None,
    prefix: FixedPrefix | None = None,
    previous: Estimate | None = None,
) -> Tensor:
    """Deterministic, first order: x' = k x + (alpha' - alpha k) x_0 with k = sigma' / sigma. See `Sampler`.

    For v-predictions this is the rotation x' = cos(d) x - sin(d) v by the angle d between the two levels.
    """

    def move(x: Tensor, x0: Tensor, step: Step, previous: Estimate | None) -> Tensor:
        k = step.next_sigma / step.sigma
        return k * x + (step.next_alpha - step.alpha * k) * x0

    return _walk(denoise, x, steps, move, callback, prefix, previous)


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Step],
    *,
    noise: NoiseSource | None = None,
    callback: Callback | None = None,
    prefix: FixedPrefix | None = None,
    previous: Estimate | None = None,
) -> Tensor:
    """Deterministic, second order: x' = k x + alpha' (1 - rho) D, D extrapolated from two estimates. See `Sampler`."""

    def move(x: Tensor, x0: Tensor, step: Step, previous: Estimate | None) -> Tensor:
        extrapolated = _extrapolate(x0, step, previous)
        return step.next_sigma / step.sigma * x + step.next_alpha * (1 - step.rho) * extrapolated

    return _walk(denoise, x, steps, move, callback, prefix, previous)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Step],
    *,
    noise: NoiseSource,
    callback: Callback | None = None,
    prefix: FixedPrefix | None = None,
    previous: Estimate | None = None,
) -> Tensor:
    """Stochastic, second order: `ddpm` with the extrapolated estimate of `dpmpp_2m`. See `Sampler`.

    From pure noise the first step keeps nothing of x but its estimate: x' = alpha' x_0 + sigma' z.
    """

    def move(x: Tensor, x0: Tensor, step: Step, previous: Estimate | None) -> Tensor:
        return _ancestral_move(x, _extrapolate(x0, step, previous), step, noise)

    return _walk(denoise, x, steps, move, callback, prefix, previous)


def ddpm(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Step],
    *,
    noise: NoiseSource,
    callback: Callback | None = None,
    prefix: FixedPrefix | None = None,
    previous: Estimate | None = None,
) -> Tensor:
    """Stochastic, first order: x' drawn from the posterior q(x' | x, x_0) of the forward process. See `Sampler`."""

    def move(x: Tensor, x0: Tensor, step: Step, previous: Estimate | None) -> Tensor:
        return _ancestral_move(x, x0, step, noise)

    return _walk(denoise, x, steps, move, callback, prefix, previous)


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpm": dpmpp_2m_sde, "dpm_ode": dpmpp_2m, "ddpm": ddpm}


@dataclass(frozen=True)
class FixedPrefix:
    """Known first frames, written over the state before every step and over the result.

    Attributes:
        latents: (B, C, F, H, W) clean latents of the first F frames.
        noise: None writes them clean at every level; a source writes them noised to the level of the step, with a
            fresh draw each. Give it numbers of its own (`KeyedNoise(keys, "prefix")`), not those of the moves.
    """

    latents: Tensor
    noise: NoiseSource | None = None

    def at_level(self, state: Tensor, step: Step) -> Tensor:
        """`state` with its first frames replaced, at the level where `step` starts."""
        if self.noise is None:
            return self.clean(state)
        latents = self.latents.to(dtype=state.dtype, device=state.device)
        return _write_prefix(add_noise(latents, self.noise.next(step, latents), step.alpha, step.sigma), state)

    def clean(self, state: Tensor) -> Tensor:
        """`state` with its first frames replaced by the clean ones."""
        return _write_prefix(self.latents.to(dtype=state.dtype, device=state.device), state)


def _write_prefix(prefix: Tensor, state: Tensor) -> Tensor:
    frames = prefix.shape[2]
    if prefix.shape != state[:, :, :frames].shape:
        raise RequestError(
            f"a prefix of shape {list(prefix.shape)} does not fit a state of shape {list(state.shape)}; "
            f"both are B C T H W and may differ in T alone, where the prefix is the shorter one"
        )
    return torch.cat([prefix, state[:, :, frames:]], dim=2)


def _walk(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Step],
    move: _Move,
    callback: Callback | None,
    prefix: FixedPrefix | None,
    previous: Estimate | None,
) -> Tensor:
    if not steps:
        raise RequestError("there are no steps to sample; ask for at least one")
    x = as_state(x)
    for step in steps:
        if prefix is not None:
            x = prefix.at_level(x, step)
        x0 = denoise(x, step).to(x.dtype)
        x = move(x, x0, step, previous)
        if prefix is not None and step is steps[-1]:
            x = prefix.clean(x)
        replacement = callback(step, x, x0) if callback is not None else None
        if replacement is not None:
            x = replacement.to(x.dtype)
        previous = step, x0
    return x


def _extrapolate(x0: Tensor, step: Step, previous: Estimate | None) -> Tensor:
    """The estimate in the middle of the move, from this step's and the last one's, linear in lambda.

    First order where there is nothing to extrapolate from or to: in the first and last step, and after a step that
    started at zero SNR, infinitely far away in lambda.
    """
    if previous is None or step.rho == 0 or previous[0].alpha == 0:
        return x0
    last_step, last_x0 = previous
    weight = -math.log(step.rho) / (2 * (step.log_snr_half - last_step.log_snr_half))
    return (1 + weight) * x0 - weight * last_x0


def _ancestral_move(x: Tensor, x0: Tensor, step: Step, noise: NoiseSource) -> Tensor:
    """x' = k rho x + alpha' (1 - rho**2) x_0 + sigma' sqrt(1 - rho**2) z, which is a draw from q(x' | x, x_0)."""
    rho = step.rho
    mean = step.next_sigma / step.sigma * rho * x + step.next_alpha * (1 - rho**2) * x0
    if step.next_sigma == 0:
        noise.skip(step, x)
        return mean
    return mean + step.next_sigma * math.sqrt(1 - rho**2) * noise.next(step, x)
