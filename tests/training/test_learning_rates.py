"""Learning rates: laws, diffusers' schedules, and SAT's (tests/golden/cogvideox_sat/README.md, lr_schedule)."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from cogworks.config.training import LearningRateOptions
from cogworks.training.learning_rates import learning_rate
from helpers.golden_weights import load_golden

PEAK = 1e-5
GOLDEN = load_golden("lr_schedule")


def rates(count: int, steps: int, shape: str, **options: float) -> torch.Tensor:
    factor = learning_rate(LearningRateOptions(shape=shape, **options), steps)
    return torch.tensor([factor(step) for step in range(count)], dtype=torch.float64)


@pytest.mark.parametrize("key", sorted(GOLDEN))
def test_sat_schedules(key: str) -> None:
    """Relative 1e-12, from the README."""
    style, automatic, steps = re.fullmatch(r"lr_(\w+)_autowarm(\d+)_N(\d+)", key).groups()
    golden = GOLDEN[key]

    def ours(steps: int, automatic: int) -> torch.Tensor:
        return PEAK * rates(len(golden), steps, f"sat_{style}", sat_auto_warmup=automatic)

    torch.testing.assert_close(ours(int(steps), int(automatic)), golden, rtol=1e-12, atol=0)
    assert ((ours(int(steps), 50) - golden).abs() > 1e-3 * golden).any()


@pytest.mark.parametrize(
    ("shape", "theirs"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 20), (7, 40), (40, 40)])
def test_diffusers_schedules(shape: str, theirs: str, warmup: int, steps: int) -> None:
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    found = []
    for _ in range(steps + 1):  # the last is the rate after the run
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    expected = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(rates(steps + 1, steps, shape, warmup_steps=warmup), expected, rtol=1e-12, atol=1e-15)
    assert (rates(steps + 1, steps, shape, warmup_steps=warmup + 3) - expected).abs().max() > 1e-3


def test_trapezoid_rises_stays_and_falls() -> None:
    found = rates(101, 100, "trapezoid", warmup_steps=9, cooldown=0.4)
    assert found[0] == 0.1
    assert (found[9:61] == 1).all()
    assert found[80] == 0.5
    assert found[99] == 1 / 40
    assert found[100] == 0


@pytest.mark.parametrize(
    "shape", ["trapezoid", "constant", "linear", "cosine", "sat_constant", "sat_linear", "sat_cosine"]
)
@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_factors_lie_in_the_unit_interval(shape: str, steps: int) -> None:
    """Whatever the length, a warm-up longer than the run included."""
    found = rates(steps, steps, shape, warmup_steps=10)
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_another_length_moves_the_fall_alone() -> None:
    short, long = (rates(60, steps, "trapezoid", warmup_steps=5, cooldown=0.25) for steps in (80, 200))
    assert torch.equal(short, long)
