"""Noise schedules: laws, and SAT's recorded tables (tests/golden/cogvideox_sat/README.md, schedules).

Tolerance 1e-6 against SAT, which computes the tables in float32.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.schedule import (
    NoiseSchedule,
    ShiftPlacement,
    Step,
    alpha_table,
    rescale_to_zero_snr,
    shift_snr,
    truncate,
)
from cogworks.errors import RequestError
from helpers.golden_weights import load_golden

SPACINGS = ["trailing", "leading", "linspace", "sat"]
golden = load_golden("schedules")


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_divides_snr(shift: float) -> None:
    alpha_bar = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
    shifted = shift_snr(alpha_bar, shift)
    torch.testing.assert_close(shifted / (1 - shifted), alpha_bar / (1 - alpha_bar) / shift)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_shift_must_be_positive(shift: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        shift_snr(torch.ones(1), shift)


def test_rescaling_ends_at_zero_and_keeps_the_start() -> None:
    alpha = torch.tensor([0.99, 0.5, 0.07], dtype=torch.float64)
    rescaled = rescale_to_zero_snr(alpha)
    assert rescaled[0] == pytest.approx(0.99, rel=1e-15)
    assert rescaled[-1] == 0
    torch.testing.assert_close(rescale_to_zero_snr(rescaled), rescaled)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_tables(shift: float) -> None:
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=shift))
    assert schedule.alpha.dtype == schedule.sigma.dtype == torch.float64
    assert schedule.alpha[-1] == 0
    assert schedule.sigma[-1] == 1
    assert (schedule.alpha.diff() < 0).all()
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(1000, dtype=torch.float64))


def test_schedule_without_zero_terminal_snr_keeps_some_signal() -> None:
    alpha = NoiseSchedule(ScheduleConfig(snr_shift=1.0, zero_terminal_snr=False)).alpha
    assert alpha[-1] > 0.06


@pytest.mark.parametrize(
    ("name", "shift", "placement"),
    [
        ("sqrt_alphas_cumprod_1000.shift1", 1.0, "before_rescale"),
        ("sqrt_alphas_cumprod_1000.shift3", 3.0, "before_rescale"),
        ("keep_start.shift3", 3.0, "before_rescale_keep_start"),
        ("post_shift.shift3", 3.0, "after_rescale"),
    ],
)
def test_table_is_sats(name: str, shift: float, placement: ShiftPlacement) -> None:
    config = ScheduleConfig(snr_shift=shift)
    table = alpha_table(config, shift_placement=placement)
    torch.testing.assert_close(table.float(), golden[name].float(), rtol=0, atol=1e-6)
    other = alpha_table(ScheduleConfig(snr_shift=2.0), shift_placement=placement)
    assert (other - golden[name]).abs().max() > 1e-2
    for other_placement in {"before_rescale", "before_rescale_keep_start", "after_rescale"} - {placement}:
        if shift != 1:
            assert (alpha_table(config, shift_placement=other_placement) - golden[name]).abs().max() > 1e-4


@pytest.mark.parametrize("num_steps", [5, 7, 20, 50, 51])
def test_sat_timesteps(num_steps: int) -> None:
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=1.0))
    assert schedule.timesteps(num_steps, "sat")[::-1] == golden[f"sampler_timesteps_{num_steps}"].tolist()


@pytest.mark.parametrize("num_steps", [5, 7, 20, 50, 51])
@pytest.mark.parametrize("shift", [1, 3])
def test_sat_levels(num_steps: int, shift: int) -> None:
    steps = NoiseSchedule(ScheduleConfig(snr_shift=shift)).steps(num_steps, "sat")
    ours = torch.tensor([step.alpha for step in steps])
    theirs = golden[f"sampler_sqrt_alphas_{num_steps}.shift{shift}"].float()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    from_table = torch.tensor([s.alpha for s in NoiseSchedule(ScheduleConfig(snr_shift=shift)).steps(num_steps)])
    assert (from_table - theirs).abs().max() > 4e-4


def test_sat_predictions_are_read_at_the_nearest_level_of_the_table() -> None:
    """The README gives how far below the timestep that level lies."""
    for num_steps, shift, expected in [
        (5, 1.0, [0, 2, 3, 5, 10]),
        (5, 3.0, [0, 2, 4, 6, 8]),
        (7, 1.0, [0, 1, 1, 2, 3, 5, 8]),
    ]:
        schedule = NoiseSchedule(ScheduleConfig(snr_shift=shift, spacing="sat"))
        found = [
            step.timestep - int((schedule.alpha - step.prediction_alpha).abs().argmin())
            for step in schedule.steps(num_steps)
        ]
        assert found == expected


def test_sat_timesteps_follow_its_float_arithmetic() -> None:
    """At some counts, 99 for one, floor meets a number that should have been whole and is not quite."""
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=1.0))
    exact = [999 * (99 - k) // 99 for k in range(99)]
    assert schedule.timesteps(99, "sat") == np.floor(np.linspace(999, 0, 99, endpoint=False)).tolist()
    assert sum(a != b for a, b in zip(schedule.timesteps(99, "sat"), exact, strict=True)) > 0


@settings(max_examples=30, deadline=None)
@given(num_steps=st.integers(1, 1000), spacing=st.sampled_from(SPACINGS), shift=st.sampled_from([1.0, 3.0]))
def test_every_walk_is_a_chain_that_ends_clean(num_steps: int, spacing: str, shift: float) -> None:
    steps = NoiseSchedule(ScheduleConfig(snr_shift=shift)).steps(num_steps, spacing)
    assert len(steps) == num_steps
    assert [step.index for step in steps] == list(range(num_steps))
    assert all(step.total == num_steps for step in steps)
    for step, following in itertools.pairwise(steps):
        assert step.next_alpha == following.alpha
        assert step.timestep > following.timestep
        assert 0 <= step.rho < 1
        assert step.alpha**2 + step.sigma**2 == pytest.approx(1, rel=1e-14)
    assert steps[-1].next_alpha == 1
    assert steps[-1].next_sigma == steps[-1].rho == 0


@pytest.mark.parametrize("spacing", ["trailing", "sat"])
@pytest.mark.parametrize("num_steps", [1, 2, 50, 1000])
def test_walks_from_the_last_timestep_start_at_pure_noise(spacing: str, num_steps: int) -> None:
    first = NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(num_steps, spacing)[0]
    assert (first.timestep, first.alpha, first.sigma) == (999, 0, 1)
    assert first.log_snr_half == -math.inf


def test_spacing_defaults_to_the_configs() -> None:
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=1.0, spacing="leading"))
    assert schedule.steps(10) == schedule.steps(10, "leading")
    assert schedule.steps(10) != schedule.steps(10, "trailing")


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_number_of_steps_out_of_range(num_steps: int) -> None:
    with pytest.raises(RequestError, match=r"1\.\.1000"):
        NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(num_steps)


def test_unknown_spacing() -> None:
    with pytest.raises(RequestError, match="trailing, leading, linspace, sat"):
        NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(10, "karras")


def test_levels() -> None:
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=3.0))
    alpha, sigma = schedule.levels(torch.tensor([[0, 19], [499, 999]]))
    expected = torch.tensor([[0.998726, 0.97292], [0.30979, 0]], dtype=torch.float64)
    torch.testing.assert_close(alpha, expected, rtol=0, atol=5e-6)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("timesteps", [torch.tensor([-1]), torch.tensor([1000]), torch.tensor([3.0])])
def test_levels_refuse(timesteps: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="timesteps must"):
        NoiseSchedule(ScheduleConfig(snr_shift=1.0)).levels(timesteps)


def test_step_must_remove_noise() -> None:
    with pytest.raises(ValueError, match="from more noise to less"):
        Step(index=0, total=1, timestep=10, alpha=0.5, prediction_alpha=0.5, next_alpha=0.5)


def test_step_levels_near_the_ends() -> None:
    step = Step(index=0, total=1, timestep=3, alpha=0.6, prediction_alpha=0.6, next_alpha=0.8)
    assert step.sigma == pytest.approx(0.8)
    assert step.next_sigma == pytest.approx(0.6)
    assert step.rho == pytest.approx(math.exp(step.log_snr_half - math.log(0.8 / 0.6)))


@pytest.mark.parametrize(
    ("num_steps", "strength", "kept"), [(50, 0.8, 40), (50, 1.0, 50), (10, 0.55, 5), (50, 0.02, 1), (3, 0.9999, 2)]
)
def test_truncate_keeps_the_end(num_steps: int, strength: float, kept: int) -> None:
    steps = NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(num_steps)
    left = truncate(steps, strength)
    assert [step.timestep for step in left] == [step.timestep for step in steps[num_steps - kept :]]
    assert [(step.index, step.total) for step in left] == [(i, kept) for i in range(kept)]
    assert left[-1].next_alpha == 1


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(RequestError, match=r"\[0, 1\]"):
        truncate(NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(10), strength)


def test_strength_that_leaves_no_step() -> None:
    with pytest.raises(RequestError, match=r"leaves no step to run; use at least 0\.1"):
        truncate(NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(10), 0.05)
