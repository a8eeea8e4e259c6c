"""Samplers: laws, on data whose denoiser and flow are known in closed form."""

import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.noise import DiffusersOrderNoise, KeyedNoise
from cogworks.diffusion.prediction import add_noise, to_x0
from cogworks.diffusion.samplers import SAMPLERS, Denoise, FixedPrefix, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde
from cogworks.diffusion.schedule import NoiseSchedule, Step, truncate
from cogworks.errors import RequestError

SCHEDULE = NoiseSchedule(ScheduleConfig(snr_shift=1.0))
DETERMINISTIC = [ddim, dpmpp_2m]
KEYS = [(7, 0), (7, 1)]
MEAN, SPREAD = 0.7, 0.3


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gaussian_denoise(x: Tensor, step: Step) -> Tensor:
    """The best x_0 estimate for data that are N(MEAN, SPREAD**2), independent in every element."""
    a, s = step.prediction_alpha, step.prediction_sigma
    return MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * (x - a * MEAN)


def gaussian_flow(x: Tensor, start: Step, end: Step) -> Tensor:
    """Where the probability flow of that data carries `x` from the start of one step to the end of another."""
    before = math.hypot(start.alpha * SPREAD, start.sigma)
    after = math.hypot(end.next_alpha * SPREAD, end.next_sigma)
    return end.next_alpha * MEAN + after / before * (x - start.alpha * MEAN)


def even_walk(num_steps: int, alpha: float = 0.2, end: float = 0.98) -> list[Step]:
    """A walk between two levels, even in lambda."""
    start, stop = (math.atanh(a**2 * 2 - 1) for a in (alpha, end))  # alpha_bar = (1 + tanh(lambda)) / 2
    alphas = [math.sqrt((1 + math.tanh(start + (stop - start) * i / num_steps)) / 2) for i in range(num_steps + 1)]
    return [
        Step(index=i, total=num_steps, timestep=num_steps - i, alpha=a, prediction_alpha=a, next_alpha=b)
        for i, (a, b) in enumerate(itertools.pairwise(alphas))
    ]


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "sat"])
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_true_estimates_keep_noise_and_data_apart(sampler, spacing: str) -> None:
    """With x_0 known, every state on the way is alpha x_0 + sigma noise, with the noise of the start."""
    x0, noise = normal(2, 1, 2, 3, 2, 2, dtype=torch.float64)
    steps = SCHEDULE.steps(10, spacing)
    start = add_noise(x0, noise, steps[0].alpha, steps[0].sigma)

    def check(step: Step, x: Tensor, estimate: Tensor) -> None:
        torch.testing.assert_close(x, add_noise(x0, noise, step.next_alpha, step.next_sigma))

    result = sampler(lambda x, step: x0, start, steps, callback=check)
    assert torch.equal(result, x0)


def test_ddim_turns_state_and_velocity() -> None:
    x, v = normal(2, 1, 2, 3, 2, 2, dtype=torch.float64)
    for step in SCHEDULE.steps(7):
        turn = math.atan2(step.sigma, step.alpha) - math.atan2(step.next_sigma, step.next_alpha)
        moved = ddim(lambda x, step: to_x0(v, "v", x, step.alpha, step.sigma), x, [step])
        torch.testing.assert_close(moved, math.cos(turn) * x - math.sin(turn) * v)


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order: int) -> None:
    """Twice the steps, 2**order times less error; measured between 2**(order - 0.2) and 2**(order + 0.2)."""
    x = normal(1, 1, 1, 4, 4, dtype=torch.float64)
    errors = []
    for num_steps in (40, 80):
        steps = even_walk(num_steps)
        exact = gaussian_flow(x, steps[0], steps[-1])
        errors.append((sampler(gaussian_denoise, x, steps) - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_second_order_needs_the_last_estimate() -> None:
    """One step has nothing to extrapolate from: it is DDIM's. Over a whole walk the two differ."""
    x = normal(1, 1, 1, 4, 4, dtype=torch.float64)
    steps = SCHEDULE.steps(10)
    for step in steps:
        alone = dpmpp_2m(gaussian_denoise, x, [step])
        torch.testing.assert_close(alone, ddim(gaussian_denoise, x, [step]))
    assert not torch.allclose(dpmpp_2m(gaussian_denoise, x, steps), ddim(gaussian_denoise, x, steps), atol=1e-3)


def test_ddpm_is_the_chain_of_posteriors() -> None:
    """Mean and spread of 10000 elements after 20 steps, against the recursion of arXiv:2006.11239 equation 7 for the
    linear denoiser. Four standard errors are 0.04 of the spread for the mean and 0.028 for the spread."""
    x, steps = normal(1, 1, 1, 100, 100), SCHEDULE.steps(20)
    mean, variance = 0.0, 1.0
    for step in steps:
        before, after = step.alpha**2, step.next_alpha**2
        beta = 1 - before / after
        of_x0 = math.sqrt(after) * beta / (1 - before)
        of_x = math.sqrt(1 - beta) * (1 - after) / (1 - before)
        gain = step.alpha * SPREAD**2 / (before * SPREAD**2 + 1 - before)
        mean = of_x0 * (MEAN + gain * (mean - step.alpha * MEAN)) + of_x * mean
        variance = (of_x0 * gain + of_x) ** 2 * variance + (1 - after) / (1 - before) * beta
    result = ddpm(gaussian_denoise, x, steps, noise=KeyedNoise([(1, 0)]))
    assert result.mean().item() == pytest.approx(mean, abs=0.04 * math.sqrt(variance))
    assert result.std().item() == pytest.approx(math.sqrt(variance), rel=0.028)


def test_second_order_brings_the_sde_nearer_to_the_data() -> None:
    """At 100 steps ddpm misses a tenth of the spread, because an estimate is no draw of x_0."""
    x, steps, noise = normal(1, 1, 1, 100, 100), SCHEDULE.steps(100), KeyedNoise([(1, 0)])
    first, second = (sampler(gaussian_denoise, x, steps, noise=noise) for sampler in (ddpm, dpmpp_2m_sde))
    assert second.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert abs(second.std().item() - SPREAD) < abs(first.std().item() - SPREAD) / 2


def test_ancestral_step_draws_from_the_posterior() -> None:
    """With x_0 = 0 and x ~ N(0, sigma**2): x' ~ N(0, sigma'**2) and cov(x, x') = alpha / alpha' sigma'**2, the
    covariance of the forward process. 40000 elements, four standard errors."""
    step = even_walk(4)[1]
    x = step.sigma * normal(1, 1, 1, 200, 200)
    moved = ddpm(lambda x, step: torch.zeros_like(x), x, [step], noise=KeyedNoise([(1, 0)]))
    assert moved.var().item() == pytest.approx(step.next_sigma**2, rel=4 * math.sqrt(2 / 40000))
    forward = step.alpha / step.next_alpha * step.next_sigma**2
    assert (x * moved).mean().item() == pytest.approx(forward, abs=4 * step.sigma * step.next_sigma / 200)


def test_first_sde_step_from_pure_noise_forgets_the_state() -> None:
    x0, noise = normal(2, 1, 1, 1, 4, 4)
    step = SCHEDULE.steps(5)[0]

    @dataclass
    class Given:
        def next(self, step: Step, like: Tensor) -> Tensor:
            return noise

        def skip(self, step: Step, like: Tensor) -> None: ...

    for start in (normal(1, 1, 1, 4, 4, seed=1), normal(1, 1, 1, 4, 4, seed=2)):
        moved = dpmpp_2m_sde(lambda x, step: x0, start, [step], noise=Given())
        torch.testing.assert_close(moved, add_noise(x0, noise, step.next_alpha, step.next_sigma))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_sampler_ends_with_its_last_estimate(name: str, strength: float) -> None:
    estimates = []

    def remember(step: Step, x: Tensor, x0: Tensor) -> None:
        estimates.append(x0)

    steps = truncate(SCHEDULE.steps(8), strength)
    result = SAMPLERS[name](gaussian_denoise, normal(2, 1, 2, 4, 4), steps, noise=KeyedNoise(KEYS), callback=remember)
    assert torch.equal(result, estimates[-1])
    assert result.isfinite().all()
    assert len(estimates) == len(steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_is_float32_whatever_the_network_returns(name: str) -> None:
    def denoise(x: Tensor, step: Step) -> Tensor:
        assert x.dtype == torch.float32
        return x.bfloat16()

    x = normal(2, 1, 2, 4, 4, dtype=torch.bfloat16)
    assert SAMPLERS[name](denoise, x, SCHEDULE.steps(3), noise=KeyedNoise(KEYS)).dtype == torch.float32


def test_callback_may_replace_the_state() -> None:
    seen: list[Tensor] = []

    def denoise(x: Tensor, step: Step) -> Tensor:
        seen.append(x)
        return x

    def double(step: Step, x: Tensor, x0: Tensor) -> Tensor | None:
        assert x0 is seen[-1]
        return torch.full_like(x, 5.0) if step.index == 0 else None

    ddim(denoise, normal(1, 1, 1, 2, 2), SCHEDULE.steps(3), callback=double)
    assert (seen[1] == 5).all()
    assert not (seen[2] == 5).all()


def test_no_steps_is_refused() -> None:
    with pytest.raises(RequestError, match="no steps"):
        ddim(gaussian_denoise, normal(1, 1, 1, 2, 2), [])


# Fixed prefix frames


def prefixed(denoise: Denoise, prefix: FixedPrefix, name: str = "ddim", num_steps: int = 6) -> list[Tensor]:
    """The states that the denoiser sees, and the result."""
    seen: list[Tensor] = []

    def watch(x: Tensor, step: Step) -> Tensor:
        seen.append(x)
        return denoise(x, step)

    result = SAMPLERS[name](
        watch, normal(2, 3, 4, 5, 5), SCHEDULE.steps(num_steps), noise=KeyedNoise(KEYS), prefix=prefix
    )
    return [*seen, result]


@pytest.mark.parametrize("name", SAMPLERS)
def test_clean_prefix_is_what_the_network_always_sees(name: str) -> None:
    latents = normal(2, 3, 2, 5, 5, seed=3)
    states = prefixed(gaussian_denoise, FixedPrefix(latents), name)
    assert all(torch.equal(state[:, :, :2], latents) for state in states)
    free = SAMPLERS[name](gaussian_denoise, normal(2, 3, 4, 5, 5), SCHEDULE.steps(6), noise=KeyedNoise(KEYS))
    assert torch.equal(states[-1][:, :, 2:], free[:, :, 2:])  # this denoiser treats every element by itself
    assert not torch.allclose(free[:, :, :2], latents)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noised_prefix_is_at_the_level_of_the_step(name: str) -> None:
    """The noise read back from the prefix is standard normal at every step, fresh, and absent from the result.

    1200 elements: four standard errors of the mean are 0.115, of the variance 0.163.
    """
    latents = normal(2, 3, 2, 10, 10, seed=3)
    seen: list[Tensor] = []

    def denoise(x: Tensor, step: Step) -> Tensor:
        seen.append((x[:, :, :2] - step.alpha * latents) / step.sigma)
        return gaussian_denoise(x, step)

    prefix = FixedPrefix(latents, KeyedNoise(KEYS, "prefix"))
    x, steps = normal(2, 3, 3, 10, 10), SCHEDULE.steps(6)
    result = SAMPLERS[name](denoise, x, steps, noise=KeyedNoise(KEYS), prefix=prefix)
    assert torch.equal(result[:, :, :2], latents)
    for noise in seen:
        assert noise.mean().abs().item() < 0.115
        assert noise.var().item() == pytest.approx(1, abs=0.163)
    for one, other in itertools.pairwise(seen):
        assert (one * other).mean().abs().item() < 0.115


@pytest.mark.parametrize("shape", [(2, 3, 5, 5, 5), (1, 3, 1, 5, 5), (2, 3, 1, 5, 4)])
def test_prefix_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="does not fit"):
        prefixed(gaussian_denoise, FixedPrefix(normal(*shape)))


# Noise sources


def test_keyed_noise_is_the_same_alone_and_in_a_batch() -> None:
    like, step = torch.empty(2, 3, 2, 4, 4), SCHEDULE.steps(5)[1]
    batch = KeyedNoise(KEYS)
    for index, key in enumerate(KEYS):
        alone = KeyedNoise([key])
        assert torch.equal(batch.next(step, like)[index], alone.next(step, like[:1])[0])
        assert torch.equal(batch.start(like)[index], alone.start(like[:1])[0])


def test_keyed_noise_differs_by_seed_sample_purpose_and_step() -> None:
    like, steps = torch.empty(1, 3, 2, 4, 4), SCHEDULE.steps(5)
    draws = [
        KeyedNoise([(7, 0)]).next(steps[0], like),
        KeyedNoise([(7, 0)]).next(steps[1], like),
        KeyedNoise([(7, 1)]).next(steps[0], like),
        KeyedNoise([(8, 0)]).next(steps[0], like),
        KeyedNoise([(7, 0)], "prefix").next(steps[0], like),
        KeyedNoise([(7, 0)]).start(like),
    ]
    for one, other in itertools.combinations(draws, 2):
        assert (one * other).mean().abs() < 0.41  # four standard errors of 96 products


@pytest.mark.parametrize("noise", [KeyedNoise([(0, 0)]), DiffusersOrderNoise([torch.Generator()], torch.float32)])
def test_noise_must_be_keyed_for_the_batch(noise: KeyedNoise | DiffusersOrderNoise) -> None:
    with pytest.raises(RequestError, match="batch"):
        noise.start(torch.empty(2, 1, 1, 2, 2))


@dataclass
class Counting:
    calls: list[str] = field(default_factory=list)

    def next(self, step: Step, like: Tensor) -> Tensor:
        self.calls.append(f"next {step.index}")
        return torch.zeros_like(like)

    def skip(self, step: Step, like: Tensor) -> None:
        self.calls.append(f"skip {step.index}")


@pytest.mark.parametrize("sampler", [ddpm, dpmpp_2m_sde])
def test_noise_is_asked_for_once_a_step_and_skipped_in_the_last(sampler) -> None:
    noise = Counting()
    sampler(gaussian_denoise, normal(1, 1, 1, 2, 2), SCHEDULE.steps(3), noise=noise)
    assert noise.calls == ["next 0", "next 1", "skip 2"]
