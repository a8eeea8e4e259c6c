"""A model of ours with small random networks, in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cogworks.config.variants import TINY, Variant
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.weights.save import save_pretrained
from helpers.small_models import small_spiece

SMALL = replace(
    TINY,
    name="small",
    transformer=replace(TINY.transformer, num_layers=1, num_heads=2, text_width=32, text_tokens=16, time_width=32),
    vae=replace(TINY.vae, widths=(4, 4, 4, 4)),
    text_encoder=replace(
        TINY.text_encoder, vocab_size=200, width=32, head_width=16, num_heads=2, num_layers=1, mlp_width=32
    ),
)


def save_small(folder: Path, variant: Variant = SMALL, **options: int) -> Path:
    """Write a model to a new folder."""
    torch.manual_seed(0)
    encoder = TextEncoder(variant.text_encoder)
    encoder.initialise(torch.Generator().manual_seed(0))
    save_pretrained(
        folder,
        variant,
        transformer=Transformer(variant.transformer),
        vae=VAE(variant.vae),
        text_encoder=encoder,
        tokenizer=Tokenizer(small_spiece()),
        **options,
    )
    return folder
