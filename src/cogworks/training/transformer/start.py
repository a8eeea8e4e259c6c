"""What a transformer run begins with: networks from a model, or new ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from cogworks.config.architecture import EDMScheduleConfig
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import RecipeError, WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.pipelines.load import choose_device, compute_dtype
from cogworks.rng import generator_for
from cogworks.training.transformer.image_input import taking_image, with_image_input
from cogworks.training.transformer.vocabulary import learned_tokenizer
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.weights.load import (
    has_text_encoder,
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    load_vae,
    load_variant,
)
from cogworks.weights.source import ModelFolder, resolve


@dataclass
class TrainingModel:
    """A model to train.

    Attributes:
        variant: what it is.
        transformer: in training, or under a LoRA.
        text_encoder: None where embeddings are prepared and it is not trained.
        tokenizer: for captions.
        vae: None where latents are prepared, or a codec makes them and the VAE is not there yet.
        codec: makes the latents in place of the VAE.
        vae_folder, text_folder: where VAE and text encoder are from.
    """

    variant: Variant
    transformer: Transformer
    text_encoder: TextEncoder | None
    tokenizer: Tokenizer
    vae: VAE | None
    codec: LinearCodec | None
    vae_folder: ModelFolder | None
    text_folder: ModelFolder | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """An average of weights copies the module that holds this, and must not copy what does not change."""
        return self


@dataclass(frozen=True)
class Parts:
    """Where the networks of a recipe are from, checked to go together. No weights are read yet.

    Attributes:
        variant: what the model is.
        folder: of the model to begin with; None begins from nothing.
        vae_folder: None where a codec makes the latents and the VAE is not there yet.
        text_folder: of text encoder and tokenizer; None where they begin from nothing too.
    """

    variant: Variant
    folder: ModelFolder | None
    vae_folder: ModelFolder | None
    text_folder: ModelFolder | None


def find_parts(recipe: TransformerRecipe) -> Parts:
    """What a recipe names.

    Raises:
        RecipeError: unknown variant, or what the recipe names does not fit together.
        WeightsError: a model that the recipe names is not there.
    """
    folder = None if recipe.model is None else resolve(recipe.model)
    variant = _new_variant(recipe) if folder is None else load_variant(folder)
    vae_folder = folder if recipe.vae is None else _vae_folder(recipe)
    if vae_folder is not None and vae_folder != folder:
        variant = replace(variant, vae=load_variant(vae_folder).vae)
    if recipe.add_image_input:
        variant = taking_image(variant)
    _check_latents(variant)
    text_folder = folder if recipe.text_encoder is None else resolve(recipe.text_encoder)
    if recipe.text_encoder is not None and text_folder is not None:
        variant = replace(variant, text_encoder=load_variant(text_folder).text_encoder)
    if variant.text_encoder.width != variant.transformer.text_width:
        raise RecipeError(
            f"the text encoder gives embeddings of width {variant.text_encoder.width}, and the transformer takes "
            f"{variant.transformer.text_width}: name another under text_encoder"
        )
    return Parts(variant, folder, vae_folder, text_folder)


def build_model(recipe: TransformerRecipe) -> TrainingModel:
    """The networks of a recipe, on the CPU, in the dtype that they are trained or used in.

    From nothing, weights are drawn from the seed, and a vocabulary is learned from captions unless the run has one.
    Where clips are prepared, what made them is not loaded again: no text encoder, and a VAE for first frames alone.

    Raises:
        RecipeError: unknown variant, or what the recipe names does not fit together.
        WeightsError: a model that the recipe names is not there or damaged.
    """
    parts = find_parts(recipe)
    variant, prepared = parts.variant, recipe.prepared is not None
    return TrainingModel(
        variant,
        _transformer(recipe, parts.folder, variant),
        None if prepared and not recipe.train_text_encoder else load_text_part(recipe, parts),
        load_tokenizer_part(recipe, parts),
        None if prepared and not variant.takes_image else load_vae_part(parts),
        None if recipe.codec is None else load_codec(recipe.codec),
        parts.vae_folder,
        parts.text_folder,
    )


def variant_called(name: str) -> Variant:
    """A row of the table of variants. Raises RecipeError with the known names."""
    if name not in VARIANTS:
        raise RecipeError(f"no variant named {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _new_variant(recipe: TransformerRecipe) -> Variant:
    assert recipe.variant is not None  # the recipe has a model or a variant
    variant = variant_called(recipe.variant)
    return replace(variant, schedule=EDMScheduleConfig()) if recipe.prediction == "edm" else variant


def _vae_folder(recipe: TransformerRecipe) -> ModelFolder | None:
    """The folder of the VAE. A run on codec latents may begin before its VAE is trained."""
    assert recipe.vae is not None
    try:
        return resolve(recipe.vae)
    except WeightsError:
        if recipe.codec is not None:
            return None
        raise


def _check_latents(variant: Variant) -> None:
    if variant.vae.latent_channels != variant.transformer.out_channels:
        raise RecipeError(
            f"the VAE makes latents of {variant.vae.latent_channels} channels, and the transformer learns "
            f"{variant.transformer.out_channels}: name another under vae"
        )


def _transformer(recipe: TransformerRecipe, folder: ModelFolder | None, variant: Variant) -> Transformer:
    if folder is None:
        transformer = Transformer(variant.transformer)
        transformer.initialise(generator_for(recipe.seed, "transformer"))
        return transformer.train()
    dtype = weights_dtype(recipe, variant)
    if recipe.add_image_input:
        return with_image_input(load_transformer(folder, load_variant(folder), dtype=dtype), variant).train()
    return load_transformer(folder, variant, dtype=dtype).train()


def weights_dtype(recipe: TransformerRecipe, variant: Variant, device: torch.device | None = None) -> torch.dtype:
    """Of a model's transformer. What is trained is float32, unless all is bfloat16; what stays as it is may be smaller.

    Args:
        device: to train on; None takes the best there is.
    """
    if recipe.precision == "bf16-true":
        return torch.bfloat16
    if recipe.lora is None or recipe.lora.base_dtype == "float32":
        return torch.float32
    # int8 leaves what it does not hold, and what it is made from, as they are published.
    return torch.bfloat16 if recipe.lora.base_dtype == "bfloat16" else helper_dtype(variant, device)


def helper_dtype(variant: Variant, device: torch.device | None = None) -> torch.dtype:
    """The published dtype, unless the device (None: the best there is) would have to emulate it."""
    return compute_dtype(getattr(torch, variant.dtype), device or choose_device(None))


def load_vae_part(parts: Parts, device: torch.device | str = "cpu") -> VAE | None:
    """The VAE that makes the latents, frozen; None where it is not there yet."""
    if parts.vae_folder is None:
        return None
    vae = load_vae(parts.vae_folder, parts.variant, dtype=helper_dtype(parts.variant), device=device)
    return vae.requires_grad_(False)


def load_text_part(recipe: TransformerRecipe, parts: Parts, device: torch.device | str = "cpu") -> TextEncoder:
    """The text encoder: frozen, to be trained, or new. Raises RecipeError if the recipe names none."""
    folder, variant = parts.text_folder, parts.variant
    if folder is None:
        if not recipe.train_text_encoder:
            raise RecipeError(
                "from nothing the text encoder is either trained along (train_text_encoder: true) or that of a model "
                "(text_encoder: NAME)"
            )
        encoder = TextEncoder(variant.text_encoder)
        encoder.initialise(generator_for(recipe.seed, "text encoder"))
        return encoder
    if not has_text_encoder(folder):
        raise RecipeError(f"{folder.path} has no text encoder: name a model that has one under text_encoder")
    dtype = torch.float32 if recipe.train_text_encoder else helper_dtype(variant)
    encoder = load_text_encoder(folder, variant, dtype=dtype, device=device)
    return encoder.requires_grad_(recipe.train_text_encoder)


def load_tokenizer_part(recipe: TransformerRecipe, parts: Parts) -> Tokenizer:
    """The tokenizer of the text encoder, or one that is learned from captions."""
    if parts.text_folder is not None:
        return load_tokenizer(parts.text_folder)
    return learned_tokenizer(recipe.output, recipe.data, parts.variant.text_encoder.vocab_size)


def load_codec(path: Path) -> LinearCodec:
    """The codec that makes latents. Raises RecipeError if there is none."""
    if not path.is_file():
        raise RecipeError(f"there is no linear codec at {path}: start the recipe of the VAE first")
    return LinearCodec.load(path)
