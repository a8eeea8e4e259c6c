"""Where the latents of a transformer run come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cogworks.errors import RecipeError
from cogworks.weights.load import load_vae, load_variant
from cogworks.weights.source import resolve

CODEC = "codec.safetensors"


def encoder_latents(folder: Path) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, T, H, W) -> diffusion latents (B, C, t, h, w): the posterior mean of a trained VAE, scaled.

    Raises:
        RecipeError: the VAE run has not ended yet.
    """
    if not folder.exists():
        raise RecipeError(f"there is no {folder}: run the recipe of the VAE to its end first")
    model = resolve(folder, local_files_only=True)
    vae = load_vae(model, load_variant(model), dtype=torch.float32)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return vae.to_diffusion(vae.encode(pixels).mode())

    return encode
