"""A walk in two parts is the walk in one, bitwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.noise import KeyedNoise
from cogworks.diffusion.samplers import SAMPLERS, Estimate
from cogworks.diffusion.schedule import NoiseSchedule, Step

STEPS = NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(6)
NOISE = KeyedNoise([(1, 0)])
START = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def denoise(x: Tensor, step: Step) -> Tensor:
    """Depends on the state and the step, and is not linear."""
    return torch.tanh(x) * (0.5 + 0.1 * step.index)


@pytest.mark.parametrize("done", range(1, 6))
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_in_two_parts(name: str, done: int) -> None:
    kept: list[tuple[Estimate, Tensor]] = []

    def keep(step: Step, state: Tensor, x0: Tensor) -> None:
        kept.append(((step, x0), state))

    whole = SAMPLERS[name](denoise, START, STEPS, noise=NOISE, callback=keep)
    previous, state = kept[done - 1]
    rest = SAMPLERS[name](denoise, state, STEPS[done:], noise=NOISE, previous=previous)
    assert torch.equal(rest, whole)


@pytest.mark.parametrize(("name", "matters"), [("ddim", False), ("ddpm", False), ("dpm", True), ("dpm_ode", True)])
def test_samplers_of_second_order_need_the_last_estimate(name: str, matters: bool) -> None:
    """The negative control: without it they end elsewhere."""
    states: list[Tensor] = []
    whole = SAMPLERS[name](denoise, START, STEPS, noise=NOISE, callback=lambda step, state, x0: states.append(state))
    rest = SAMPLERS[name](denoise, states[2], STEPS[3:], noise=NOISE)
    assert torch.equal(rest, whole) != matters
