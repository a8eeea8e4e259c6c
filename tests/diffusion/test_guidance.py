"""Guidance: laws, and the recorded scales (tests/golden/cogvideox_sat/README.md, schedules)."""

import pytest
import torch

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.guidance import constant_guidance, cosine_ramp, guide, timestep_cosine_guidance
from cogworks.diffusion.prediction import to_x0
from cogworks.diffusion.schedule import NoiseSchedule, truncate
from helpers.golden_weights import load_golden

golden = load_golden("schedules")


def test_scale_0_and_1_are_the_branches() -> None:
    uncond, cond = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guide(uncond, cond, 0.0), uncond)
    torch.testing.assert_close(guide(uncond, cond, 1.0), cond)
    torch.testing.assert_close(guide(uncond, cond, 2.0) - cond, cond - uncond)


def test_half_precision_is_guided_in_float32() -> None:
    uncond, cond = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    guided = guide(uncond, cond, 6.0)
    torch.testing.assert_close(guided, guide(uncond.float(), cond.float(), 6.0), rtol=0, atol=0)


def test_guiding_v_is_guiding_x0() -> None:
    uncond, cond, x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided_x0 = guide(to_x0(uncond, "v", x, 0.6, 0.8), to_x0(cond, "v", x, 0.6, 0.8), 6.0)
    torch.testing.assert_close(guided_x0, to_x0(guide(uncond, cond, 6.0), "v", x, 0.6, 0.8))


def test_published_dynamic_guidance() -> None:
    """Tolerance 1e-8: both are float64, but the cosine is taken of angles up to 8e6, where a unit is 1e-9."""
    steps = NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(50)
    guidance = timestep_cosine_guidance(6.0)
    ours = torch.tensor([guidance(step) for step in reversed(steps)], dtype=torch.float64)
    theirs = golden["dyn_cfg_scale_by_timestep.50"].squeeze()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    by_index = torch.tensor([cosine_ramp(step.index, 50, 6.0) for step in reversed(steps)], dtype=torch.float64)
    assert (by_index - theirs).abs().max() > 1


def test_ramp_as_a_function_of_its_argument() -> None:
    ours = torch.tensor([cosine_ramp(k, 50, 6.0) for k in range(51)], dtype=torch.float64)
    torch.testing.assert_close(ours, golden["dyn_cfg_scale_by_index.0_50"].squeeze(), rtol=0, atol=1e-12)
    assert (ours[0], ours[-1]) == (1, 7)
    assert (ours.diff() >= 0).all()


def test_dynamic_guidance_of_a_shortened_walk_reads_the_shortened_count() -> None:
    left = truncate(NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(50), 0.8)
    assert timestep_cosine_guidance(6.0)(left[0]) == cosine_ramp(40 - left[0].timestep, 40, 6.0)
    assert timestep_cosine_guidance(6.0)(left[0]) != pytest.approx(
        cosine_ramp(50 - left[0].timestep, 50, 6.0), abs=1e-3
    )


def test_constant_guidance() -> None:
    steps = NoiseSchedule(ScheduleConfig(snr_shift=1.0)).steps(5)
    assert {constant_guidance(4.5)(step) for step in steps} == {4.5}
