"""Models with random weights, as folders."""

from __future__ import annotations

from pathlib import Path

import torch

from cogworks.config.variants import Variant
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.weights.save import save_pretrained
from helpers.small_models import small_spiece


def save_random(folder: str | Path, variant: Variant, *, text_dtype: torch.dtype = torch.float32) -> None:
    """Write a model with random weights, as torch's generator stands; its text encoder is stored in `text_dtype`."""
    save_pretrained(
        folder,
        variant,
        transformer=Transformer(variant.transformer),
        vae=VAE(variant.vae),
        text_encoder=TextEncoder(variant.text_encoder).cast(text_dtype),
        tokenizer=Tokenizer(small_spiece()),
    )
