"""A small VAE, twice: diffusers' with every parameter perturbed, and ours with the same numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.models.vae import VAE

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

SMALL_CONFIG = VAEConfig(
    widths=(16, 16, 32, 32),
    latent_channels=4,
    layers_per_block=1,
    norm_groups=4,
    scaling_factor=0.7,
    invert_scale_latents=False,
    sample_size=(64, 96),
)

RENAMED_FROM_DIFFUSERS = (
    (r"\b(down|up)_blocks\.", "levels."),
    (r"\bmid_block\.resnets\.", "middle."),
    (r"\bresnets\.", "blocks."),
    (r"\b(down|up)samplers\.0\.", r"\1sample."),
    (r"\bconv_shortcut\b", "shortcut"),
    (r"(conv_in|conv_out|conv1|conv2)\.conv\.", r"\1."),
    (r"\bnorm_layer\b", "norm"),
    (r"\bconv_y\.conv\b", "scale"),
    (r"\bconv_b\.conv\b", "shift"),
)


def perturbed_vae() -> VAE:
    """Ours alone, every parameter perturbed."""
    torch.manual_seed(0)
    vae = VAE(SMALL_CONFIG).requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply every (pattern, replacement) in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def vae_pair() -> tuple[VAE, AutoencoderKLCogVideoX]:
    """Ours and theirs, with equal random numbers in every parameter."""
    from diffusers import AutoencoderKLCogVideoX  # seconds, which processes started by tests need not spend

    torch.manual_seed(0)
    config = SMALL_CONFIG
    theirs = AutoencoderKLCogVideoX(
        block_out_channels=config.widths,
        latent_channels=config.latent_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        sample_height=config.sample_size[0],
        sample_width=config.sample_size[1],
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = VAE(config).eval()
    ours.load_state_dict({rename(name, RENAMED_FROM_DIFFUSERS): p for name, p in theirs.state_dict().items()})
    return ours, theirs


def random_clip(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def channels_last(x: Tensor) -> Tensor:
    """A clip (B, C, T, H, W) with its channels side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last_3d)
