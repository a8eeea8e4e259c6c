"""Draws of noise levels: their distribution. All draws are seeded, so the bounds hold always or never."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.partition import interval_v10
from cogworks.diffusion.schedule import NoiseSchedule
from cogworks.diffusion.timesteps import Draw, draw_positions
from cogworks.errors import RecipeError
from cogworks.rng import generator_for

SCHEDULE = NoiseSchedule(ScheduleConfig(snr_shift=1.0))


def draw(batch: int, seed: int = 0, **options: object) -> Tensor:
    """Timesteps of one replica."""
    return SCHEDULE.timesteps_at(draw_positions(batch, torch.Generator().manual_seed(seed), **options))


def draw_together(batch: int, replicas: int, step: int, how: Draw = "spread", seed: int = 0) -> Tensor:
    """(replicas, batch) positions, keyed as a training step keys them."""
    return torch.stack(
        [
            draw_positions(
                batch,
                generator_for(seed, "step", step, replica),
                draw=how,
                replica=replica,
                replicas=replicas,
                shared_generator=generator_for(seed, "stretches", step),
            )
            for replica in range(replicas)
        ]
    )


def draw_steps(batch: int, replicas: int, steps: int, how: Draw = "spread") -> Tensor:
    """(steps, replicas, batch) positions; the dealers of all replicas are in one state."""
    own = [torch.Generator().manual_seed(replica) for replica in range(replicas)]
    dealers = [torch.Generator().manual_seed(1234) for _ in range(replicas)]
    drawn = [
        draw_positions(batch, own[r], draw=how, replica=r, replicas=replicas, shared_generator=dealers[r])
        for _ in range(steps)
        for r in range(replicas)
    ]
    return torch.cat(drawn).view(steps, replicas, batch)


def chi_square(counts: Tensor) -> float:
    """In standard deviations from what uniform counts give; beyond 4 they are not uniform."""
    expected = counts.sum() / counts.numel()
    freedom = counts.numel() - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("how", ["spread", "independent"])
@pytest.mark.parametrize("power", [1.0, 0.45])
def test_share_below_t_is_the_promised_power(power: float, how: Draw) -> None:
    """The largest gap between empirical and promised distribution of 20000 draws is below 1.6 / sqrt(20000)."""
    timesteps = draw(20000, power=power, draw=how)
    thresholds = torch.arange(0, 1001, 10)
    share = (timesteps[:, None] < thresholds).double().mean(0)
    promised = (thresholds / 1000) ** (1 / power)
    assert (share - promised).abs().max() < 1.6 / 20000**0.5
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_low_power_favours_high_noise() -> None:
    assert draw(1000, power=0.45).double().mean() > 650 > 550 > draw(1000).double().mean()


@pytest.mark.parametrize("batch", [1, 4, 7, 1000])
def test_spread_batch_has_one_draw_in_each_stretch(batch: int) -> None:
    stretches = draw(batch).double() * batch / 1000
    assert (stretches.sort().values - torch.arange(batch)).abs().max() <= 1


def test_order_and_place_in_the_stretches_are_random() -> None:
    """Each entry of a spread batch is uniform by itself."""
    entries = torch.stack([draw(4, seed) for seed in range(2000)])
    assert (entries.double().mean(0) - 499.5).abs().max() < 3 * 289 / 2000**0.5
    assert (entries == entries.sort(1).values).all(1).double().mean() < 0.1


# Over replicas, that draw together without telling each other anything.


@pytest.mark.parametrize(("batch", "replicas"), [(1, 1), (1, 3), (2, 4), (3, 8), (8, 1), (1, 40)])
def test_every_stretch_is_hit_once_a_step(batch: int, replicas: int) -> None:
    for step in range(5):
        hit = (draw_together(batch, replicas, step) * batch * replicas).long()
        assert sorted(hit.flatten().tolist()) == list(range(batch * replicas))
    plain = (draw_together(8, 4, 0, "independent") * 32).long()
    assert sorted(plain.flatten().tolist()) != list(range(32))


@pytest.mark.parametrize(("batch", "replicas"), [(1, 3), (2, 4), (1, 7)])
def test_every_timestep_is_equally_likely(batch: int, replicas: int) -> None:
    """Chi square over 1000 timesteps, replicas together and each alone, where stretches do not divide them too."""
    drawn = SCHEDULE.timesteps_at(draw_steps(batch, replicas, 1500))
    counts = torch.bincount(drawn.flatten(), minlength=1000)
    assert counts.shape == (1000,)
    # Together the counts vary less than if drawn alone, never more.
    assert chi_square(counts.double()) < 4
    for replica in range(replicas):
        alone = torch.bincount(drawn[:, replica].flatten() // 10, minlength=100)
        assert abs(chi_square(alone.double())) < 4


def test_every_replica_gets_every_stretch_equally_often() -> None:
    """So that no shard of the data always meets the same noise; under SAT's rule each always does."""
    stretches = (draw_steps(1, 4, 1500).squeeze(2) * 4).long()
    for replica in range(4):
        assert abs(chi_square(torch.bincount(stretches[:, replica], minlength=4).double())) < 4
    bound = (draw_steps(1, 4, 50, "sat_v10").squeeze(2) * 4).long()
    assert (bound == torch.arange(4)).all()


def test_replicas_need_not_know_each_other_but_their_dealer() -> None:
    """With dealers in different states stretches collide; without any, several replicas are refused."""

    def hit(seeds: list[int]) -> list[int]:
        drawn = [
            draw_positions(
                1,
                generator_for(0, "step", 0, replica),
                replica=replica,
                replicas=8,
                shared_generator=generator_for(seed),
            )
            for replica, seed in enumerate(seeds)
        ]
        return sorted((torch.cat(drawn) * 8).long().tolist())

    assert hit([5] * 8) == list(range(8))
    assert hit(list(range(8))) != list(range(8))
    with pytest.raises(ValueError, match="shared generator"):
        draw_positions(2, torch.Generator(), replicas=2)


@pytest.mark.parametrize("replicas", [1, 4, 12, 16])
def test_sat_draws_stay_in_their_interval_and_fill_it(replicas: int) -> None:
    for replica in range(replicas):
        low, high = interval_v10(replica, replicas)
        drawn = draw(4000, replica, draw="sat_v10", replica=replica, replicas=replicas)
        assert low <= int(drawn.min()) <= int(drawn.max()) < high
        counts = torch.bincount(drawn - low, minlength=high - low)
        assert abs(chi_square(counts.double())) < 4


def test_sat_draws_under_both_rules() -> None:
    drawn = draw(500, 0, draw="sat_head", replica=2, replicas=40)
    assert 50 <= int(drawn.min()) <= int(drawn.max()) < 75
    assert int(draw(500, 0, draw="sat_head", replica=2, replicas=4).max()) > 900
    assert int(draw(500, 0, draw="sat_v10", replica=2, replicas=4).max()) < 750
    with pytest.raises(RecipeError, match="multiple of 40"):
        draw(1, draw="sat_head", replicas=12)


@pytest.mark.parametrize("how", get_args(Draw))
def test_draws_follow_the_generator(how: Draw) -> None:
    assert torch.equal(draw(8, 1, draw=how), draw(8, 1, draw=how))
    assert not torch.equal(draw(8, 1, draw=how), draw(8, 2, draw=how))


@pytest.mark.parametrize(("batch", "power"), [(0, 1.0), (4, 0.0), (4, -1.0)])
def test_refusals(batch: int, power: float) -> None:
    with pytest.raises(RecipeError):
        draw(batch, power=power)
