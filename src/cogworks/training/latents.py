"""Where the latents of a transformer run come from: the codec or the encoder of a VAE run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cogworks.config.recipe import TransformerRecipe
from cogworks.config.variants import Variant
from cogworks.errors import RecipeError
from cogworks.models.vae import VAE
from cogworks.training.export import averaged
from cogworks.training.linear_codec import LinearCodec

CODEC = "codec.safetensors"


def latents_of(recipe: TransformerRecipe, variant: Variant) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, T, H, W) -> diffusion latents (B, C, t, h, w), without gradient.

    The encoder gives its posterior mean, scaled. It may still be in training, as long as it does not change
    (`train_encoder: false`).

    Raises:
        RecipeError: the VAE run has not been started.
    """
    if recipe.latents == "codec":
        if not (recipe.vae / CODEC).exists():
            raise RecipeError(f"{recipe.vae} holds no {CODEC}: start the recipe of the VAE first")
        return LinearCodec.load(recipe.vae / CODEC).encode
    vae = averaged(recipe.vae, "vae", VAE(variant.vae)).eval()

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return vae.to_diffusion(vae.encode(pixels).mode())

    return encode
