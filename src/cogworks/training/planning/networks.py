"""The module of a recipe without its weights: shapes and dtypes alone, of any variant, with or without its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from cogworks.config.recipe import Recipe
from cogworks.config.text_encoder_recipe import TextEncoderRecipe
from cogworks.config.training_data import Bucket
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.training.clips.batches import CaptionBatch, ClipBatch, LatentBatch, PixelBatch, levels_to_pixels
from cogworks.training.export import TrainingModule
from cogworks.training.text_encoder.facts import FACTS
from cogworks.training.text_encoder.module import TextEncoderModule, TrainingText
from cogworks.training.transformer.image_input import taking_image
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import TrainingModel, helper_dtype, variant_called, weights_dtype
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.training.vae.module import VAEModule
from cogworks.training.vae.start import TrainingVAE
from cogworks.weights.components import empty_text_encoder, empty_transformer, empty_vae
from cogworks.weights.load import load_variant
from cogworks.weights.source import resolve

META = torch.device("meta")
_NARROW = (torch.float16, torch.bfloat16)


def empty_module(recipe: Recipe, device: torch.device) -> TrainingModule:
    """The module that a recipe trains on a device, on the meta device. No weights are looked for.

    Raises:
        RecipeError: unknown variant.
        WeightsError: a model that is no row of the table of variants, and is not there.
    """
    variant = planned_variant(recipe)
    module: TrainingModule
    if isinstance(recipe, TextEncoderRecipe):
        text = TrainingText(variant, empty_text_encoder(variant).train(), cast(Tokenizer, _NoTokenizer()))
        module = TextEncoderModule(recipe, text)
    elif isinstance(recipe, VAERecipe):
        codec = None if recipe.codec is None else _empty_codec(variant.vae.latent_channels)
        module = VAEModule(recipe, TrainingVAE(variant, empty_vae(variant).train(), codec))
    else:
        module = TransformerModule(recipe, _empty_model(recipe, variant, device))
    return module.to(META)


def planned_variant(recipe: Recipe) -> Variant:
    """What a recipe trains, from the table of variants where it names a row of it, or else from files."""
    variant = variant_called(recipe.variant) if recipe.variant is not None else _variant_of(str(recipe.model))
    if not isinstance(recipe, TransformerRecipe):
        return variant
    if recipe.add_image_input:
        variant = taking_image(variant)
    if recipe.vae is not None:
        try:
            variant = replace(variant, vae=_variant_of(recipe.vae).vae)
        except WeightsError:
            if recipe.codec is None:  # beside a codec it may come later
                raise
    if recipe.text_encoder is not None:
        variant = replace(variant, text_encoder=_variant_of(recipe.text_encoder).text_encoder)
    return variant


def empty_batch(recipe: Recipe, variant: Variant, bucket: Bucket, size: int, device: torch.device) -> ClipBatch:
    """A batch of `size` clips without values, as the data of a recipe make it."""
    captions, dtype = [""] * size, helper_dtype(variant, device)
    if isinstance(recipe, TransformerRecipe) and recipe.prepared is not None:
        vae, config = variant.vae, variant.transformer
        frames = (bucket.frames - 1) // vae.temporal_stride + 1
        rows, columns = bucket.height // vae.spatial_stride, bucket.width // vae.spatial_stride
        return LatentBatch(
            torch.empty(size, vae.latent_channels, frames, rows, columns, device=META),
            captions,
            0,
            torch.empty(size, config.text_tokens, config.text_width, dtype=dtype, device=META),
            torch.empty(1, config.text_tokens, config.text_width, dtype=dtype, device=META),
            torch.empty(size, 3, bucket.height, bucket.width, device=META) if variant.takes_image else None,
        )
    clips = torch.empty(size, *bucket, 3, dtype=torch.uint8, device=META)
    return PixelBatch(levels_to_pixels(clips.permute(0, 4, 1, 2, 3)), captions, 0)


def empty_captions(variant: Variant, size: int) -> CaptionBatch:
    """A batch of `size` captions without values."""
    tokens = variant.transformer.text_tokens
    ids = torch.empty(size, tokens, dtype=torch.int64, device=META)
    return CaptionBatch(ids, torch.empty(size, tokens, len(FACTS), dtype=torch.int64, device=META), 0)


def buckets_of(recipe: Recipe) -> tuple[Bucket, ...]:
    """The shapes that batches of a recipe have."""
    data = recipe.data
    return (Bucket(data.frames, data.size, data.size),) if data.kind == "shapes" else data.sizes


class _NoTokenizer:
    """Gives ids of the right shape; which text they stand for makes no difference to a plan."""

    def encode(self, prompts: Sequence[str], max_tokens: int) -> Tensor:
        return torch.zeros(len(prompts), max_tokens, dtype=torch.int64)


def _variant_of(model: str) -> Variant:
    return VARIANTS.get(model) or load_variant(resolve(model, local_files_only=True))


def _empty_model(recipe: TransformerRecipe, variant: Variant, device: torch.device) -> TrainingModel:
    helper = helper_dtype(variant, device)
    dtype = torch.float32 if recipe.model is None else weights_dtype(recipe, variant, device)
    transformer = empty_transformer(variant).to(dtype).train()
    holds_text = recipe.prepared is None or recipe.train_text_encoder
    holds_vae = recipe.prepared is None or variant.takes_image
    return TrainingModel(
        variant,
        transformer,
        _empty_text_encoder(recipe, variant, helper) if holds_text else None,
        cast(Tokenizer, _NoTokenizer()),
        empty_vae(variant).to(helper).requires_grad_(False) if holds_vae else None,
        None if recipe.codec is None else _empty_codec(variant.vae.latent_channels),
        None,
        None,
    )


def _empty_text_encoder(recipe: TransformerRecipe, variant: Variant, helper: torch.dtype) -> TextEncoder:
    encoder = empty_text_encoder(variant)
    if recipe.train_text_encoder:
        return encoder
    stored: torch.dtype = getattr(torch, variant.dtype)
    encoder.cast(helper)
    if stored in _NARROW and helper not in _NARROW:  # its linears stay as they are stored: `weights.load_text_encoder`
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                module.to(stored)
    return encoder.requires_grad_(False)


def _empty_codec(channels: int) -> LinearCodec:
    blocks = {"first": 192, "rest": 768}
    tensors: dict[str, Tensor] = {}
    for kind, width in blocks.items():
        tensors |= {f"{kind}.mean": torch.empty(width, device=META), f"{kind}.gain": torch.empty(channels, device=META)}
        tensors[f"{kind}.basis"] = torch.empty(channels, width, device=META)
    return LinearCodec(tensors)
