"""Weights of the loss, and offset noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import EDM, ScheduleConfig
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.noise import offset_noise
from cogworks.diffusion.prediction import Kind, add_noise, prediction_target, to_x0, x0_weight
from cogworks.diffusion.schedule import NoiseSchedule
from cogworks.errors import CogworksError

KINDS: list[Kind] = ["v", "eps", "x0", EDM(sigma_data=0.5)]
ALPHAS = torch.tensor([0.05, 0.5, 0.99], dtype=torch.float64)
SIGMAS = (1 - ALPHAS**2).sqrt()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def x0_errors(prediction: Tensor, kind: Kind, x0: Tensor, noise: Tensor) -> Tensor:
    """(B,) mean squared errors of the x_0 estimate, the long way round."""
    estimate = to_x0(prediction, kind, add_noise(x0, noise, ALPHAS, SIGMAS), ALPHAS, SIGMAS)
    return (estimate - x0).square().flatten(1).mean(1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("weighting", [None, *KINDS], ids=str)
@pytest.mark.parametrize("min_snr", [None, 0.5, 5.0])
def test_loss_is_the_weighted_x0_error(kind: Kind, weighting: Kind | None, min_snr: float | None) -> None:
    """For every kind, weighting and limit: w is that of the weighting, clipped from above."""
    x0, noise = numbers(2, 3, 4, 2)
    prediction = prediction_target(kind, x0, noise, ALPHAS, SIGMAS) + 0.1 * numbers(3, 4, 2, seed=1)
    weight = x0_weight(weighting or kind, ALPHAS, SIGMAS)
    if min_snr is not None:
        weight = weight.clamp(max=min_snr)
    found = diffusion_loss(prediction, x0, noise, ALPHAS, SIGMAS, kind=kind, weighting=weighting, min_snr=min_snr)
    torch.testing.assert_close(found, weight * x0_errors(prediction, kind, x0, noise))


def test_limit_touches_only_the_samples_above_it() -> None:
    """One sample of the batch at a time, which SAT's `min` of a tensor and a number could not do."""
    x0, noise = numbers(2, 3, 4, 2)
    v = numbers(3, 4, 2, seed=1)
    plain = diffusion_loss(v, x0, noise, ALPHAS, SIGMAS)
    limited = diffusion_loss(v, x0, noise, ALPHAS, SIGMAS, min_snr=5.0)
    assert torch.equal(limited[:2], plain[:2])  # 1 + SNR is 1.003 and 1.33
    torch.testing.assert_close(limited[2], plain[2] * 5 * SIGMAS[2] ** 2)
    alone = diffusion_loss(v[2:], x0[2:], noise[2:], ALPHAS[2:], SIGMAS[2:], min_snr=5.0)
    assert torch.equal(alone, limited[2:])


def test_limit_is_one_more_than_the_papers() -> None:
    """min(1 + SNR, gamma + 1) against min(SNR, gamma) on the error of x_0, over all timesteps."""
    schedule = NoiseSchedule(ScheduleConfig(snr_shift=1.0))
    snr = (schedule.alpha / schedule.sigma) ** 2
    sats = x0_weight("v", schedule.alpha, schedule.sigma).clamp(max=6.0)
    torch.testing.assert_close(sats, snr.clamp(max=5.0) + 1)
    assert sats[-1] == 1  # pure noise still counts


@pytest.mark.parametrize("kind", ["v", "x0", EDM()], ids=str)
@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_loss_at_zero_snr_is_finite(kind: Kind, min_snr: float | None) -> None:
    x0, noise = numbers(2, 1, 4)
    assert diffusion_loss(noise, x0, noise, 0.0, 1.0, kind=kind, weighting="v", min_snr=min_snr).isfinite().all()


def test_eps_network_is_not_weighed_at_zero_snr() -> None:
    x0, noise = numbers(2, 1, 4)
    assert diffusion_loss(noise, x0, noise, 0.0, 1.0, kind="eps").tolist() == [0]
    with pytest.raises(CogworksError, match="zero SNR"):
        diffusion_loss(noise, x0, noise, 0.0, 1.0, kind="eps", min_snr=5.0)


def test_weights_do_not_touch_the_gradient_but_by_a_factor() -> None:
    x0, noise = numbers(2, 3, 4, 2)
    gradients = []
    for options in ({}, {"min_snr": 5.0}):
        v = numbers(3, 4, 2, seed=1).requires_grad_()
        diffusion_loss(v, x0, noise, ALPHAS, SIGMAS, **options).sum().backward()
        gradients.append(v.grad)
    factor = (5 * SIGMAS**2).clamp(max=1).view(-1, 1, 1)
    torch.testing.assert_close(gradients[1], gradients[0] * factor)


# Offset noise.


def test_offset_noise_adds_one_number_to_each_sample() -> None:
    noise = numbers(5, 2, 3, 4).float()
    added = offset_noise(noise, 0.1, torch.Generator().manual_seed(3)) - noise
    expected = 0.1 * torch.randn(5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(added, expected.view(-1, 1, 1, 1).expand_as(added), rtol=0, atol=1e-6)
    assert (added.diff(dim=0).abs() > 1e-4).all()


def test_offset_noise_of_level_zero_is_the_noise() -> None:
    noise = numbers(2, 3)
    assert torch.equal(offset_noise(noise, 0.0, torch.Generator()), noise)


def test_offset_noise_keeps_the_dtype() -> None:
    assert offset_noise(numbers(2, 3).bfloat16(), 0.1, torch.Generator()).dtype == torch.bfloat16
