"""Schedules and samplers beside diffusers' CogVideoXDDIMScheduler and CogVideoXDPMScheduler, live.

Tolerance 1e-5 for runs, of states up to 9 in size: coefficients are float64 and states float32 on both sides and the
measured difference is 0, but a fused multiply-add may round either side alone. Tables: 1e-12, both float64.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.noise import DiffusersOrderNoise
from cogworks.diffusion.prediction import add_noise, to_x0, velocity
from cogworks.diffusion.samplers import SAMPLERS
from cogworks.diffusion.schedule import NoiseSchedule, Spacing, Step, truncate

TOLERANCE = 1e-5
SHAPE = (2, 4, 3, 2, 2)  # B C T H W
CLASSES = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) / 2


def published(name: str, shift: float, spacing: str = "trailing", **changes: Any):
    """The scheduler of the published configuration files."""
    config = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "v_prediction",
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": shift,
    }
    return CLASSES[name](**{**config, **changes})


def ours(shift: float) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(snr_shift=shift))


def predict(x: Tensor, timestep: int) -> Tensor:
    """A v-predictor in our layout: a fixed random mix of channels, stronger at high noise."""
    return torch.einsum("cd,bdthw->bcthw", MIX, x) * (0.5 + timestep / 1000) + timestep / 3000


def run_theirs(name: str, scheduler: Any, x: Tensor, timesteps: list[int], generator: torch.Generator) -> list[Tensor]:
    """The states after every step, as the pipelines call the scheduler: layout B T C H W."""
    states, x, old = [], x.transpose(1, 2), None
    for i, t in enumerate(timesteps):
        v = predict(x.transpose(1, 2), t).transpose(1, 2)
        if name == "ddim":
            x = scheduler.step(v, t, x, generator=generator, return_dict=False)[0]
        else:
            back = timesteps[i - 1] if i > 0 else None
            x, old = scheduler.step(v, old, t, back, x, generator=generator, return_dict=False)
        states.append(x.transpose(1, 2))
    return states


def run_ours(name: str, x: Tensor, steps: list[Step], generator: torch.Generator) -> list[Tensor]:
    states: list[Tensor] = []

    def denoise(x: Tensor, step: Step) -> Tensor:
        return to_x0(predict(x, step.timestep), "v", x, step.prediction_alpha, step.prediction_sigma)

    def record(step: Step, x: Tensor, x0: Tensor) -> None:
        states.append(x)

    SAMPLERS[name](denoise, x, steps, noise=DiffusersOrderNoise(generator, torch.float32), callback=record)
    return states


def with_their_next_timesteps(steps: list[Step], shift: float, num_steps: int) -> list[Step]:
    """Diffusers' rule: a step ends at timestep - 1000 // N, whatever the next step starts from."""
    alpha = ours(shift).alpha
    ends = [step.timestep - 1000 // num_steps for step in steps]
    return [
        replace(step, next_alpha=float(alpha[end]) if end >= 0 else 1.0) for step, end in zip(steps, ends, strict=True)
    ]


@dataclass
class Run:
    """One run by both: states after every step, and the generators afterwards."""

    ours: list[Tensor]
    theirs: list[Tensor]
    same_generator: bool

    @property
    def difference(self) -> float:
        assert len(self.ours) == len(self.theirs)
        return max((a - b).abs().max().item() for a, b in zip(self.ours, self.theirs, strict=True))


def run_both(name: str, scheduler: Any, steps: list[Step], num_steps: int, x: Tensor | None = None) -> Run:
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()[-len(steps) :]
    assert timesteps == [step.timestep for step in steps]
    mine, other = (torch.Generator().manual_seed(3) for _ in range(2))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) if x is None else x
    states = run_ours(name, x, steps, mine), run_theirs(name, scheduler, x, timesteps, other)
    return Run(*states, torch.equal(mine.get_state(), other.get_state()))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_tables(shift: float) -> None:
    scheduler = published("ddim", shift)
    torch.testing.assert_close(ours(shift).alpha, scheduler.alphas_cumprod.sqrt(), rtol=0, atol=1e-12)
    assert (ours(shift).alpha - published("ddim", 4 - shift).alphas_cumprod.sqrt()).abs().max() > 0.1


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_and_velocity(shift: float) -> None:
    scheduler, schedule = published("ddim", shift), ours(shift)
    x0, noise = torch.randn(2, 4, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 400, 980, 999])
    levels = schedule.levels(timesteps)
    torch.testing.assert_close(add_noise(x0, noise, *levels), scheduler.add_noise(x0, noise, timesteps))
    torch.testing.assert_close(
        velocity(x0, noise, *levels), scheduler.get_velocity(x0, noise, timesteps), rtol=0, atol=2e-6
    )
    assert not torch.allclose(
        add_noise(x0, noise, *schedule.levels(timesteps.flip(0))), scheduler.add_noise(x0, noise, timesteps)
    )


TOO_LONG = {61: -1, 103: -1, 998: -1}  # three of the 62 counts up to 1000


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps(spacing: Spacing) -> None:
    """Every count. Trailing: diffusers' list is one too long for 62 counts and ends in -1 (docs/parity.md)."""
    scheduler, schedule = published("ddim", 1.0, spacing), ours(1.0)
    too_long = {}
    for num_steps in range(1, 1001):
        scheduler.set_timesteps(num_steps)
        theirs = scheduler.timesteps.tolist()
        if len(theirs) != num_steps:
            too_long[num_steps] = theirs.pop()
        assert schedule.timesteps(num_steps, spacing) == theirs
    if spacing == "trailing":
        assert len(too_long) == 62
        assert too_long.items() >= TOO_LONG.items()
        assert set(too_long.values()) == {-1}
    else:
        assert not too_long


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("num_steps", [5, 10, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_run(name: str, shift: float, num_steps: int, spacing: Spacing) -> None:
    """Every state of a run, and the generator after it."""
    run = run_both(name, published(name, shift, spacing), ours(shift).steps(num_steps, spacing), num_steps)
    assert run.difference < TOLERANCE
    assert run.same_generator


@pytest.mark.parametrize(
    ("spacing", "num_steps"), [("linspace", 5), ("linspace", 50), ("trailing", 7), ("trailing", 30)]
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_run_with_their_rule_for_the_next_timestep(name: str, shift: float, spacing: Spacing, num_steps: int) -> None:
    """Where 1000 // N is not the distance of the timesteps, that rule is the whole difference."""
    scheduler, steps = published(name, shift, spacing), ours(shift).steps(num_steps, spacing)
    run = run_both(name, scheduler, with_their_next_timesteps(steps, shift, num_steps), num_steps)
    assert run.difference < TOLERANCE
    assert run.same_generator
    assert run_both(name, scheduler, steps, num_steps).difference > 1e-3


@pytest.mark.parametrize("name", ["ddim", "dpm"])
@pytest.mark.parametrize("strength", [0.8, 0.3])
def test_video_to_video(name: str, strength: float) -> None:
    """A walk that starts between noise and data, at the noised source."""
    scheduler, steps = published(name, 3.0), truncate(ours(3.0).steps(50), strength)
    x0, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    x = add_noise(x0, noise, steps[0].alpha, steps[0].sigma)
    theirs = scheduler.add_noise(x0, noise, torch.tensor([steps[0].timestep]))
    torch.testing.assert_close(x, theirs, rtol=0, atol=1e-6)
    run = run_both(name, scheduler, steps, 50, x)
    assert run.difference < TOLERANCE
    assert run.same_generator


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddim", {"snr_shift_scale": 1.1}),
        ("dpm", {"snr_shift_scale": 1.1}),
        ("ddim", {"prediction_type": "sample"}),
        ("dpm", {"prediction_type": "sample"}),
        ("ddim", {"rescale_betas_zero_snr": False}),
        ("dpm", {"rescale_betas_zero_snr": False}),
        ("ddim", {"set_alpha_to_one": False}),
        ("dpm", {"set_alpha_to_one": False}),
    ],
)
def test_other_configuration_would_be_noticed(name: str, changes: dict[str, Any]) -> None:
    run = run_both(name, published(name, 1.0, **changes), ours(1.0).steps(10), 10)
    assert run.difference > 100 * TOLERANCE


def test_other_order_of_draws_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusersOrderNoise, "next", lambda self, step, like: self.start(like))
    run = run_both("dpm", published("dpm", 1.0), ours(1.0).steps(10), 10)
    assert run.difference > 1
    assert not run.same_generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("one_a_sample", [False, True])
def test_draws_are_the_pipelines(dtype: torch.dtype, one_a_sample: bool) -> None:
    def generators() -> Any:
        return [torch.Generator().manual_seed(s) for s in (1, 2)] if one_a_sample else torch.Generator().manual_seed(1)

    b, c, t, h, w = SHAPE
    source, reference = DiffusersOrderNoise(generators(), dtype), generators()
    steps = ours(1.0).steps(3)
    for count, draw in (
        (1, source.start),
        (1, lambda x: source.next(steps[0], x)),
        (2, lambda x: source.next(steps[1], x)),
    ):
        expected = [randn_tensor((b, t, c, h, w), generator=reference, dtype=dtype) for _ in range(count)][-1]
        drawn = draw(torch.empty(SHAPE))
        assert drawn.dtype == torch.float32
        assert torch.equal(drawn, expected.transpose(1, 2).float())
        in_our_layout = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)
        assert not torch.equal(drawn, in_our_layout.float())
