"""The algebra between predictions, data and noise, and the loss on top of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.prediction import Kind, add_noise, from_x0, prediction_target, to_x0, velocity
from cogworks.errors import CogworksError

KINDS: list[Kind] = ["v", "eps", "x0"]
ALPHAS = torch.tensor([0.05, 0.5, 0.99], dtype=torch.float64)
SIGMAS = (1 - ALPHAS**2).sqrt()


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 2, 2, 2, generator=generator, dtype=torch.float64).to(dtype)
    return x0, noise


@pytest.mark.parametrize("kind", KINDS)
def test_target_leads_back_to_x0(kind: Kind) -> None:
    x0, noise = pair()
    x_t = add_noise(x0, noise, ALPHAS, SIGMAS)
    target = prediction_target(kind, x0, noise, ALPHAS, SIGMAS)
    torch.testing.assert_close(to_x0(target, kind, x_t, ALPHAS, SIGMAS), x0)
    torch.testing.assert_close(from_x0(x0, kind, x_t, ALPHAS, SIGMAS), target)


@pytest.mark.parametrize("kind", KINDS)
def test_from_x0_inverts_to_x0(kind: Kind) -> None:
    prediction, x_t = pair()
    x0 = to_x0(prediction, kind, x_t, 0.6, 0.8)
    torch.testing.assert_close(from_x0(x0, kind, x_t, 0.6, 0.8), prediction)


@settings(max_examples=25, deadline=None)
@given(angle=st.floats(0, 1.5707963))
def test_state_and_velocity_are_the_turned_pair(angle: float) -> None:
    """(x_t, v) is (x_0, noise) turned: lengths are kept, and turning back gives x_0 and the noise at every level."""
    x0, noise = pair()
    a, s = torch.tensor(angle, dtype=torch.float64).cos().item(), torch.tensor(angle, dtype=torch.float64).sin().item()
    x_t, v = add_noise(x0, noise, a, s), velocity(x0, noise, a, s)
    torch.testing.assert_close(x_t**2 + v**2, x0**2 + noise**2)
    torch.testing.assert_close(a * x_t - s * v, x0)
    torch.testing.assert_close(s * x_t + a * v, noise)


def test_floats_and_one_level_a_sample_agree() -> None:
    x0, noise = pair()
    levels = torch.full((3,), 0.6), torch.full((3,), 0.8)
    torch.testing.assert_close(add_noise(x0, noise, *levels), add_noise(x0, noise, 0.6, 0.8), rtol=0, atol=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    x0, noise = pair(torch.bfloat16)
    x_t = add_noise(x0, noise, ALPHAS, SIGMAS)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t, add_noise(x0.float(), noise.float(), ALPHAS, SIGMAS), rtol=0, atol=0)


def test_level_of_another_batch_is_refused() -> None:
    x0, noise = pair()
    with pytest.raises(CogworksError, match=r"one value a sample, 3; got \[2\]"):
        add_noise(x0, noise, ALPHAS[:2], SIGMAS[:2])


@pytest.mark.parametrize("alpha", [0.0, torch.tensor([0.5, 0.0, 0.5])])
def test_eps_says_nothing_at_zero_snr(alpha: float | Tensor) -> None:
    prediction, x_t = pair()
    with pytest.raises(CogworksError, match="zero SNR"):
        to_x0(prediction, "eps", x_t, alpha, 1.0)


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_clean_data_say_nothing_about_noise(kind: Kind) -> None:
    x0, x_t = pair()
    with pytest.raises(CogworksError, match="sigma must be above 0"):
        from_x0(x0, kind, x_t, 1.0, 0.0)


def test_v_loss_is_the_weighted_x0_error() -> None:
    x0, noise = pair()
    v = velocity(x0, noise, ALPHAS, SIGMAS) + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    error = to_x0(v, "v", add_noise(x0, noise, ALPHAS, SIGMAS), ALPHAS, SIGMAS) - x0
    expected = error.square().mean((1, 2, 3, 4)) / (1 - ALPHAS**2)
    torch.testing.assert_close(diffusion_loss(v, x0, noise, ALPHAS, SIGMAS), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_zero_for_the_target_alone(kind: Kind) -> None:
    x0, noise = pair()
    target = prediction_target(kind, x0, noise, ALPHAS, SIGMAS)
    assert diffusion_loss(target, x0, noise, ALPHAS, SIGMAS, kind=kind).max() == 0
    assert diffusion_loss(target + 1, x0, noise, ALPHAS, SIGMAS, kind=kind).tolist() == pytest.approx([1, 1, 1])


def test_loss_of_half_precision_networks_is_float32() -> None:
    x0, noise = pair(torch.bfloat16)
    assert diffusion_loss(x0, x0, noise, 0.6, 0.8).dtype == torch.float32
