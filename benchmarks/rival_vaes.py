"""A VAE on both sides: diffusers', and ours with its weights.

Letters: B batch, C channels, T H W frames and pixels, t h w latent frames, rows, columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rival_weights import drawing, load_ours, of_dtype, perturb, silence
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.models.vae import VAE
from cogworks.weights.configs import write_vae
from cogworks.weights.load import load_vae, load_variant
from cogworks.weights.maps.diffusers import VAE_RULES
from cogworks.weights.source import resolve


@dataclass(frozen=True)
class VAEPair:
    """One VAE on both sides."""

    ours: VAE
    theirs: Any


def vae_pair(config: VAEConfig, seed: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VAEPair:
    """Random weights, made on `device`."""
    from diffusers import AutoencoderKLCogVideoX

    silence()
    with drawing(seed), torch.device(device), of_dtype(dtype):
        theirs = AutoencoderKLCogVideoX.from_config(write_vae(config)).to(dtype).eval()
        perturb(theirs)
        ours = VAE(config).to(dtype).eval()
    load_ours(ours, theirs, VAE_RULES)
    return VAEPair(ours, theirs)


def tiny_vaes() -> VAEPair:
    """Those of the bundled model, each read by its own library."""
    from diffusers import AutoencoderKLCogVideoX

    silence()
    folder = resolve("tiny")
    ours = load_vae(folder, load_variant(folder), dtype=torch.float32)
    return VAEPair(ours, AutoencoderKLCogVideoX.from_pretrained(folder.path / "vae").float().eval())


def decode_ours(vae: VAE, latents: Tensor) -> Tensor:  # (B, C, t, h, w) -> (B, 3, T, H, W)
    return vae.decode(latents)


def decode_theirs(vae: Any, latents: Tensor) -> Tensor:
    return vae.decode(latents, return_dict=False)[0]


def encode_ours(vae: VAE, pixels: Tensor) -> Tensor:  # (B, 3, T, H, W) -> (B, C, t, h, w)
    return vae.encode(pixels).mode()


def encode_theirs(vae: Any, pixels: Tensor) -> Tensor:
    return vae.encode(pixels, return_dict=False)[0].mode()


def random_latents(config: VAEConfig, frames: int, height: int, width: int, seed: int) -> Tensor:
    """(1, C, t, h, w) for a clip of this many frames and pixels."""
    latent_frames = (frames - 1) // config.temporal_stride + 1
    shape = (1, config.latent_channels, latent_frames, height // config.spatial_stride, width // config.spatial_stride)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_clip(frames: int, height: int, width: int, seed: int) -> Tensor:
    """(1, 3, T, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1
