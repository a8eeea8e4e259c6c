"""A training step of a network in EDM's form beside the published formulas, which leave data unscaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogworks.training.clips.batches import LatentBatch
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import build_model
from helpers.small_models import TEXT_TOKENS, diffusers_pipeline
from helpers.small_runs import small_recipe

SIGMA_DATA = 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose scheduler is diffusers' for EDM."""
    from diffusers import EDMEulerScheduler

    pipe, place = diffusers_pipeline("5b-i2v"), tmp_path_factory.mktemp("models") / "edm"
    pipe.scheduler = EDMEulerScheduler(sigma_data=SIGMA_DATA)
    pipe.save_pretrained(place)
    return place


def step(folder: Path, output: Path, number: int = 3, **values: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(B,) losses, latents, and what the network was shown, told and said."""
    recipe = small_recipe(folder, output, **values)
    module = TransformerModule(recipe, build_model(recipe))
    config, generator = module.transformer.config, torch.Generator().manual_seed(3)
    latents = SIGMA_DATA * torch.randn(16, config.out_channels, 3, 8, 8, generator=generator)
    text_emb = torch.randn(16, TEXT_TOKENS, config.text_width, generator=generator)
    images = torch.rand(16, 3, 64, 64, generator=generator) * 2 - 1
    seen: list[Tensor] = []
    module.transformer.register_forward_hook(lambda network, given, said: seen.extend([*given[:2], said]))
    with torch.no_grad():
        losses, _ = module.losses(LatentBatch(latents, [""] * 16, number, text_emb, text_emb[:1], images))
    shown, told, said = seen
    return losses, latents, shown[:, : config.out_channels], told, said


def test_loss_is_the_published_one(folder: Path, tmp_path: Path) -> None:
    """weight(s) (skip y + out F - x_0)^2 with y = x_0 + s n, of what the network saw: in y, told log(s) / 4."""
    losses, x0, shown, told, said = step(folder, tmp_path)
    s = torch.exp(4 * told.double()).view(-1, 1, 1, 1, 1)
    total = s**2 + SIGMA_DATA**2
    y = shown * total.sqrt()
    estimate = SIGMA_DATA**2 / total * y + s * SIGMA_DATA / total.sqrt() * said
    expected = (total / (s * SIGMA_DATA) ** 2 * (estimate - x0) ** 2).flatten(1).mean(1)
    # The detour through x_0 loses digits where s is small; the losses are about 2.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-5)
    noise = (y - x0) / s
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    # Negative control: what another sigma_data would make of it.
    other = s**2 + 0.5**2
    estimate = 0.5**2 / other * y + s * 0.5 / other.sqrt() * said
    assert ((other / (s * 0.5) ** 2 * (estimate - x0) ** 2).flatten(1).mean(1) - expected).abs().max() > 0.1


def test_levels_are_log_normal_as_the_recipe_says(folder: Path, tmp_path: Path) -> None:
    """Sixteen levels spread over the normal distribution, one in each sixteenth of it."""
    told = step(folder, tmp_path, timesteps={"log_mean": -0.4, "log_std": 0.9})[3]
    shares = torch.special.ndtr((4 * told.double() + 0.4) / 0.9) * 16
    assert sorted(shares.long().tolist()) == list(range(16))


def test_limit_of_the_weight(folder: Path, tmp_path: Path) -> None:
    plain, _, _, told, _ = step(folder, tmp_path)
    limited = step(folder, tmp_path, loss={"min_snr": 5.0})[0]
    s = torch.exp(4 * told.double())
    weight = (s**2 + SIGMA_DATA**2) / (s * SIGMA_DATA) ** 2
    factor = (5 / weight).clamp(max=1)
    assert factor.min() < 0.5
    assert factor.max() == 1
    torch.testing.assert_close(limited.double(), plain.double() * factor, rtol=1e-5, atol=0)
