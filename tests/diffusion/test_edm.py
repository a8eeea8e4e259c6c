"""EDM as a pair (alpha, sigma): SAT's recorded scalings and draws, walks that solve a known ODE, diffusers' sampler.

Tolerance 1e-6, relative, against the recordings (tests/golden/cogvideox_sat/README.md, schedules), which are float32.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import EDM, EDMScheduleConfig, ScheduleConfig
from cogworks.diffusion.edm import EDMSchedule, noise_schedule
from cogworks.diffusion.noise import KeyedNoise
from cogworks.diffusion.prediction import (
    Kind,
    add_noise,
    from_x0,
    network_input,
    prediction_target,
    to_x0,
    velocity,
    x0_weight,
)
from cogworks.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m
from cogworks.diffusion.schedule import NoiseSchedule, Step, truncate
from cogworks.errors import RequestError
from helpers.golden_weights import load_golden

GOLDEN = load_golden("schedules")
SIGMAS = GOLDEN["scaling_sigma"].double()  # EDM's s
ALPHAS = 1 / (1 + SIGMAS**2).sqrt()
NOISES = SIGMAS * ALPHAS


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_scalings(kind: EDM, s: Tensor) -> tuple[Tensor, ...]:
    """c_skip, c_out, c_in of the paper, read off our functions at the level s: y = x_t / alpha, D = skip y + out F."""
    alpha, sigma = 1 / (1 + s**2).sqrt(), s / (1 + s**2).sqrt()
    one, nothing = torch.ones(len(s), 1, dtype=torch.float64), torch.zeros(len(s), 1, dtype=torch.float64)
    skip = to_x0(nothing, kind, alpha[:, None] * one, alpha, sigma)
    out = to_x0(one, kind, nothing, alpha, sigma)
    into = network_input(alpha[:, None] * one, kind, alpha, sigma)
    return tuple(each.squeeze(1) for each in (skip, out, into))


def test_scalings_are_sats() -> None:
    found = published_scalings(EDM(sigma_data=0.5), SIGMAS)
    for ours, theirs in zip(found, GOLDEN["scaling_edm"][:3].double(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    other = published_scalings(EDM(sigma_data=0.6), SIGMAS)
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(found, other, strict=True))


def test_what_the_network_is_told_is_sats() -> None:
    """log(s) / 4, which `levels` turns back into the pair."""
    told = GOLDEN["scaling_edm"][3].double()
    alpha, sigma = EDMSchedule(EDMScheduleConfig()).levels(told)
    torch.testing.assert_close(alpha, ALPHAS, rtol=2e-6, atol=0)
    torch.testing.assert_close(sigma, NOISES, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("name", "kind"), [("edm", EDM(sigma_data=0.5)), ("eps", "eps"), ("v", "v")])
def test_weights_are_sats(name: str, kind: Kind) -> None:
    theirs = GOLDEN[f"weight_{name}"].double()
    torch.testing.assert_close(x0_weight(kind, ALPHAS, NOISES), theirs, rtol=1e-6, atol=0)
    assert (x0_weight(EDM(sigma_data=0.7), ALPHAS, NOISES) / theirs - 1).abs().max() > 0.1


def test_draws_are_sats() -> None:
    """s = exp(-1.2 + 1.2 z), where a position is the share of normal numbers below z."""
    schedule = EDMSchedule(EDMScheduleConfig())
    positions = torch.special.ndtr(GOLDEN["edm_sampling_z"].double())
    drawn = torch.exp(4 * schedule.timesteps_at(positions))
    torch.testing.assert_close(drawn, GOLDEN["edm_sampling_sigma"].double(), rtol=1e-6, atol=0)
    other = torch.exp(4 * schedule.timesteps_at(positions, log_mean=-1.0))
    assert (other / drawn - 1).abs().min() > 0.1


def test_the_ends_of_the_positions_are_finite() -> None:
    schedule = EDMSchedule(EDMScheduleConfig())
    told = schedule.timesteps_at(torch.tensor([0.0, 1.0]))
    alpha, sigma = schedule.levels(told)
    for each in (told, alpha, sigma):
        assert each.isfinite().all()
    assert (alpha > 0).all()
    assert (sigma > 0).all()


def test_walk_has_sats_levels() -> None:
    steps = EDMSchedule(EDMScheduleConfig()).steps(18)
    levels = torch.tensor([step.sigma / step.alpha for step in steps], dtype=torch.float64)
    theirs = GOLDEN["edm_sigmas_18"].double()
    torch.testing.assert_close(levels, theirs, rtol=1e-6, atol=0)
    other = EDMSchedule(EDMScheduleConfig(rho=5.0)).steps(18)
    assert max(abs(step.sigma / step.alpha / s - 1) for step, s in zip(other, theirs.tolist(), strict=True)) > 0.1


@pytest.mark.parametrize("num_steps", [1, 2, 18, 1000])
def test_walk_is_a_chain_that_ends_clean(num_steps: int) -> None:
    steps = EDMSchedule(EDMScheduleConfig()).steps(num_steps)
    assert len(steps) == num_steps
    assert [step.next_alpha for step in steps] == [*[step.alpha for step in steps[1:]], 1.0]
    assert steps[0].alpha == pytest.approx(1 / math.hypot(1, 80))
    for step in steps:
        assert step.timestep == pytest.approx(math.log(step.sigma / step.alpha) / 4, abs=1e-8)
    assert len(truncate(steps, 0.5)) == num_steps // 2 if num_steps > 1 else True


def test_walk_of_no_steps_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 1, got 0"):
        EDMSchedule(EDMScheduleConfig()).steps(0)


@pytest.mark.parametrize(
    "values", [{"sigma_min": 0.0}, {"sigma_min": 90.0}, {"rho": 0.0}], ids=lambda values: next(iter(values))
)
def test_configuration_refuses(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        EDMScheduleConfig(**values)
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        EDM(sigma_data=0.0)


def test_a_config_finds_its_schedule() -> None:
    assert isinstance(noise_schedule(ScheduleConfig(snr_shift=1.0)), NoiseSchedule)
    assert isinstance(noise_schedule(EDMScheduleConfig()), EDMSchedule)


# The form, as algebra. Levels at both ends included: nothing is infinite where alpha is 0.

ENDS = torch.tensor([0.0, 1e-3, 0.6, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("sigma_data", [0.3, 1.0, 2.0])
def test_target_leads_back_to_x0(sigma_data: float) -> None:
    kind, sigma = EDM(sigma_data=sigma_data), (1 - ENDS**2).sqrt()
    x0, noise = numbers(2, 4, 3, 2)
    x_t = add_noise(x0, noise, ENDS, sigma)
    target = prediction_target(kind, x0, noise, ENDS, sigma)
    assert target.isfinite().all()
    torch.testing.assert_close(to_x0(target, kind, x_t, ENDS, sigma), x0)
    levels = ENDS[:3], sigma[:3]  # a clean state says nothing about the noise
    torch.testing.assert_close(from_x0(x0[:3], kind, x_t[:3], *levels), target[:3])


def test_form_for_data_of_unit_variance_is_v() -> None:
    """With the other sign; and the network sees x_t itself."""
    kind, sigma = EDM(sigma_data=1.0), (1 - ENDS**2).sqrt()
    x0, noise = numbers(2, 4, 3, 2)
    x_t = add_noise(x0, noise, ENDS, sigma)
    torch.testing.assert_close(prediction_target(kind, x0, noise, ENDS, sigma), -velocity(x0, noise, ENDS, sigma))
    torch.testing.assert_close(network_input(x_t, kind, ENDS, sigma), x_t)


def test_input_and_target_have_unit_variance() -> None:
    """At every level, where the data have the variance that EDM was told; that is what the scalings are for."""
    kind, sigma = EDM(sigma_data=0.5), (1 - ENDS**2).sqrt()
    x0, noise = numbers(2, 4, 40000)
    x0 = 0.5 * x0
    shown = network_input(add_noise(x0, noise, ENDS, sigma), kind, ENDS, sigma)
    target = prediction_target(kind, x0, noise, ENDS, sigma)
    for each in (shown, target):
        torch.testing.assert_close(each.std(dim=1), torch.ones(4, dtype=torch.float64), rtol=0, atol=0.02)


# Sampling: a network that is right about Gaussian data turns the start into the end of the probability-flow ODE.


def gaussian_network(mean: float, std: float, kind: EDM) -> object:
    """`denoise` by way of the network's input and output, of data that are normal with `mean` and `std`."""

    def denoise(x: Tensor, step: Step) -> Tensor:
        shown = network_input(x, kind, step.alpha, step.sigma)
        s = math.exp(4 * step.timestep)  # what the network is told
        y = shown * math.hypot(s, kind.sigma_data)
        ideal = (std**2 * y + s**2 * mean) / (std**2 + s**2)
        skip = kind.sigma_data**2 / (s**2 + kind.sigma_data**2)
        out = s * kind.sigma_data / math.hypot(s, kind.sigma_data)
        return to_x0((ideal - skip * y) / out, kind, x, step.alpha, step.sigma)

    return denoise


@pytest.mark.parametrize(("walk", "num_steps", "tolerance"), [(ddim, 400, 1.5e-2), (dpmpp_2m, 60, 1e-2)])
def test_walk_solves_the_ode_of_gaussian_data(walk: object, num_steps: int, tolerance: float) -> None:
    """Along the ODE a sample keeps its place in the marginal: y = mean + z sqrt(std^2 + s^2) at every s.

    The tolerance is that of the discretisation, 1.2e-2 and 7e-3 measured; with more steps it vanishes.
    """
    mean, std, kind = 0.3, 0.7, EDM(sigma_data=0.5)
    z = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64).view(1, 1, 1, 1, 11)
    exact = mean + z * std

    def worst(num_steps: int, kind: EDM) -> float:
        steps = EDMSchedule(EDMScheduleConfig(prediction=kind)).steps(num_steps)
        s = steps[0].sigma / steps[0].alpha
        start = steps[0].alpha * (mean + z * math.hypot(std, s))
        return float((walk(gaussian_network(mean, std, kind), start, steps) - exact).abs().max())

    assert worst(num_steps, kind) < tolerance
    assert worst(2 * num_steps, kind) < 0.6 * worst(num_steps, kind)
    # The form is exact, so what it takes the data to be does not matter.
    assert worst(num_steps, EDM(sigma_data=2.0)) == pytest.approx(worst(num_steps, kind), rel=1e-6)


def test_samples_have_the_marginal_of_gaussian_data() -> None:
    """From pure noise and with fresh noise on the way, by the stochastic sampler: mean and deviation."""
    steps = EDMSchedule(EDMScheduleConfig()).steps(300)
    start = numbers(4, 1, 1, 50, 50)
    noise = KeyedNoise([(0, sample) for sample in range(4)])
    for name in ("ddpm", "dpm"):
        end = SAMPLERS[name](gaussian_network(0.3, 0.7, EDM()), start, steps, noise=noise)
        assert float(end.mean()) == pytest.approx(0.3, abs=0.03)
        assert float(end.std()) == pytest.approx(0.7, abs=0.03)


def test_ddim_is_diffusers_euler() -> None:
    """The same network walked by both from the same numbers; theirs keeps data unscaled. Their levels are float32."""
    from diffusers import EDMEulerScheduler

    theirs = EDMEulerScheduler()
    theirs.set_timesteps(12)
    start = numbers(1, 2, 1, 3, 3).float()

    def network(shown: Tensor, told: Tensor) -> Tensor:
        return torch.tanh(1.5 * shown + told.to(shown)) - 0.3 * shown

    kind = EDM()

    def denoise(x: Tensor, step: Step) -> Tensor:
        shown = network_input(x, kind, step.alpha, step.sigma)
        return to_x0(network(shown, torch.tensor(step.timestep)), kind, x, step.alpha, step.sigma)

    y = start * theirs.init_noise_sigma
    for told in theirs.timesteps:
        y = theirs.step(network(theirs.scale_model_input(y, told), told), told, y).prev_sample
    ours = ddim(denoise, start, EDMSchedule(EDMScheduleConfig()).steps(12))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)
    other = ddim(denoise, start, EDMSchedule(EDMScheduleConfig(rho=6.0)).steps(12))
    assert (other - y).abs().max() > 1e-3
