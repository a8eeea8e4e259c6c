"""A training step's losses and gradients beside diffusers' network, scheduler and loss, for every kind of variant.

Their side noises with the scheduler's `add_noise`, takes x_0 estimates from `get_velocity` (the same form with
its arguments exchanged) and weighs their squared error by 1 / (1 - alpha_bar), as the trainers around diffusers do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.prediction import add_noise
from cogworks.diffusion.schedule import NoiseSchedule
from cogworks.models.transformer import Transformer
from cogworks.training.clips.batches import LatentBatch
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import build_model
from helpers.small_models import SCHEDULE, TEXT_TOKENS, VARIATIONS, diffusers_pipeline
from helpers.small_runs import small_recipe
from helpers.transformer_pair import by_our_names, run_theirs, transformer_pair

TOLERANCE = 1e-5  # of losses, which are about 2, and of gradients, relative to the largest
SIZE = {"sample_height": 8, "sample_width": 12, "sample_frames": 9}
TIMESTEPS = torch.tensor([999, 417])


class Inputs(NamedTuple):
    """Clean latents, their noise, the image's latents (image to video) and text embeddings."""

    x0: Tensor
    noise: Tensor
    image: Tensor | None
    text_emb: Tensor


def inputs(network: Transformer) -> Inputs:
    config, generator = network.config, torch.Generator().manual_seed(1)
    frames = 4 if config.patch_size[0] == 2 else 3
    x0, noise, image = torch.randn(3, 2, config.out_channels, frames, 8, 12, generator=generator)
    image[:, :, 1:] = 0
    text_emb = torch.randn(2, config.text_tokens, config.text_width, generator=generator)
    return Inputs(x0, noise, image if config.takes_image else None, text_emb)


def beside_image(latents: Tensor, given: Inputs) -> Tensor:
    return latents if given.image is None else torch.cat([latents, given.image], dim=1)


def our_losses(network: Transformer, given: Inputs, shift: float, min_snr: float | None = None) -> Tensor:
    alpha, sigma = NoiseSchedule(ScheduleConfig(snr_shift=shift)).levels(TIMESTEPS)
    x_t = add_noise(given.x0, given.noise, alpha, sigma)
    ofs = None if network.ofs_embed is None else torch.full((2,), 2.0)
    v = network(beside_image(x_t, given), TIMESTEPS, given.text_emb, ofs)
    return diffusion_loss(v, given.x0, given.noise, alpha, sigma, min_snr=min_snr)


def run_with_table(network: nn.Module, latents: Tensor, timesteps: Tensor, text_emb: Tensor) -> Tensor:
    """Their prediction, with a gradient for the learned position table too: a buffer there, a parameter here."""
    if network.config.use_learned_positional_embeddings:
        network.patch_embed.pos_embedding.requires_grad_()
    return run_theirs(network, latents, timesteps, text_emb)


def their_losses(network: nn.Module, given: Inputs, shift: float, min_snr: float | None = None) -> Tensor:
    from diffusers import CogVideoXDPMScheduler

    scheduler = CogVideoXDPMScheduler(**{**SCHEDULE, "snr_shift_scale": shift})
    x_t = scheduler.add_noise(given.x0, given.noise, TIMESTEPS)
    output = run_with_table(network, beside_image(x_t, given), TIMESTEPS, given.text_emb)
    x0 = scheduler.get_velocity(output, x_t, TIMESTEPS)
    weight = (1 / (1 - scheduler.alphas_cumprod[TIMESTEPS])).float()
    if min_snr is not None:
        weight = weight.clamp(max=min_snr)
    return (weight.view(-1, 1, 1, 1, 1) * (x0 - given.x0) ** 2).flatten(1).mean(1)


def gradients(network: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    losses.mean().backward()
    return {name: tensor.grad for name, tensor in network.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize("min_snr", [None, 1.2])
@pytest.mark.parametrize("variation", sorted(VARIATIONS))
def test_losses_and_gradients_of_a_step(variation: str, min_snr: float | None) -> None:
    ours, theirs = transformer_pair(variation, **SIZE)
    shift, given = 3.0 if variation == "2b" else 1.0, inputs(ours)
    found, expected = our_losses(ours, given, shift, min_snr), their_losses(theirs, given, shift, min_snr)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)

    assert_gradients(ours, found, theirs, expected)


def assert_gradients(ours: Transformer, our_losses: Tensor, theirs: nn.Module, their_losses: Tensor) -> None:
    found, expected = gradients(ours, our_losses), by_our_names(gradients(theirs, their_losses), ours)
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float(gradient.abs().max()) > 0, name
        difference = float((found[name] - gradient).abs().max())
        assert difference < TOLERANCE * largest, f"{name}: {difference / largest}"


@pytest.mark.parametrize("variation", sorted(VARIATIONS))
def test_a_step_of_the_trainer(variation: str, tmp_path: Path) -> None:
    """The whole step, from a folder of diffusers: what our network is shown, theirs is shown too."""
    pipe = diffusers_pipeline(variation)
    pipe.save_pretrained(tmp_path / "theirs")
    module = TransformerModule(model := small_recipe(tmp_path / "theirs", tmp_path / "run"), build_model(model))
    config, generator = module.transformer.config, torch.Generator().manual_seed(3)
    assert module.model.variant.schedule == ScheduleConfig(snr_shift=SCHEDULE["snr_shift_scale"])

    latents = torch.randn(
        2, config.out_channels, 2 if config.position_table != "learned" else 3, 8, 8, generator=generator
    )
    text_emb = torch.randn(2, TEXT_TOKENS, config.text_width, generator=generator)
    images = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 if config.takes_image else None
    shown: list[Tensor] = []
    hook = module.transformer.register_forward_pre_hook(lambda network, given: shown.extend(given[:3]))
    found, _ = module.losses(LatentBatch(latents, ["", ""], 5, text_emb, text_emb[:1], images))
    hook.remove()
    x_t, timesteps, text_emb = shown

    output = run_with_table(pipe.transformer, x_t, timesteps, text_emb)
    x0 = pipe.scheduler.get_velocity(output, x_t[:, : config.out_channels], timesteps)
    weight = (1 / (1 - pipe.scheduler.alphas_cumprod[timesteps])).float()
    expected = (weight.view(-1, 1, 1, 1, 1) * (x0 - latents) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert_gradients(module.transformer, found, pipe.transformer, expected)


# Negative controls: the same comparison with one thing wrong.


@pytest.mark.parametrize("variation", ["2b", "1.5-i2v"])
def test_another_shift_or_weight_is_seen(variation: str) -> None:
    ours, theirs = transformer_pair(variation, **SIZE)
    shift, given = 3.0 if variation == "2b" else 1.0, inputs(ours)
    with torch.no_grad():
        expected = their_losses(theirs, given, shift)
        for wrong in (our_losses(ours, given, 4 - shift), our_losses(ours, given, shift, min_snr=1.05)):
            assert (wrong - expected).abs().max() > 100 * TOLERANCE


def test_a_gradient_that_does_not_flow_is_seen() -> None:
    ours, theirs = transformer_pair("5b", **SIZE)
    given = inputs(ours)
    ours.blocks[0].attention.norm_q.requires_grad_(False)
    found = gradients(ours, our_losses(ours, given, 1.0))
    expected = by_our_names(gradients(theirs, their_losses(theirs, given, 1.0)), ours)
    missing = {name for name, gradient in found.items() if gradient is None}
    assert missing == {"blocks.0.attention.norm_q.weight", "blocks.0.attention.norm_q.bias"} < expected.keys()
