"""Timestep draws: their distribution. All draws are seeded, so the bounds hold always or never."""

import pytest
import torch

from cogworks.diffusion.timesteps import draw_timesteps
from cogworks.errors import RecipeError


def draw(batch: int, seed: int = 0, **options: float | bool) -> torch.Tensor:
    return draw_timesteps(batch, torch.Generator().manual_seed(seed), num_timesteps=1000, **options)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("power", [1.0, 0.45])
def test_share_below_t_is_the_promised_power(power: float, stratified: bool) -> None:
    """The largest gap between empirical and promised distribution of 20000 draws is below 1.6 / sqrt(20000)."""
    timesteps = draw(20000, power=power, stratified=stratified)
    thresholds = torch.arange(0, 1001, 10)
    share = (timesteps[:, None] < thresholds).double().mean(0)
    promised = (thresholds / 1000) ** (1 / power)
    assert (share - promised).abs().max() < 1.6 / 20000**0.5
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_low_power_favours_high_noise() -> None:
    assert draw(1000, power=0.45).double().mean() > 650 > 550 > draw(1000).double().mean()


@pytest.mark.parametrize("batch", [1, 4, 7, 1000])
def test_stratified_batch_has_one_draw_in_each_interval(batch: int) -> None:
    strata = draw(batch).double() * batch / 1000
    assert (strata.sort().values - torch.arange(batch)).abs().max() <= 1


def test_order_and_place_of_strata_are_random() -> None:
    """Each entry of a stratified batch is uniform by itself."""
    entries = torch.stack([draw(4, seed) for seed in range(2000)])
    assert (entries.double().mean(0) - 499.5).abs().max() < 3 * 289 / 2000**0.5
    assert (entries == entries.sort(1).values).all(1).double().mean() < 0.1


def test_draws_follow_the_generator() -> None:
    assert torch.equal(draw(8, 1), draw(8, 1))
    assert not torch.equal(draw(8, 1), draw(8, 2))


@pytest.mark.parametrize(("batch", "power"), [(0, 1.0), (4, 0.0), (4, -1.0)])
def test_refusals(batch: int, power: float) -> None:
    with pytest.raises(RecipeError):
        draw(batch, power=power)
