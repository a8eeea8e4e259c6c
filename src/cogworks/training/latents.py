"""Where the latents of a transformer run come from: the codec or the encoder of a VAE run, at once or from a file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogworks.config.recipe import TransformerRecipe
from cogworks.config.variants import Variant
from cogworks.data.shapes import draw_scene
from cogworks.errors import RecipeError
from cogworks.models.vae import VAE
from cogworks.rng import generator_for
from cogworks.training.batches import LatentBatch, ShapesBatches, read_batch
from cogworks.training.export import averaged
from cogworks.training.linear_codec import LinearCodec

CODEC = "codec.safetensors"
CACHE = "latents.safetensors"
PIECE = 16  # clips encoded at once

Encode = Callable[[Tensor], Tensor]


def encoder_of(recipe: TransformerRecipe, variant: Variant) -> Encode:
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


class EncodedBatches:
    """Batches `start`, `start` + 1, ...: new clips every time, encoded on the way."""

    def __init__(self, recipe: TransformerRecipe, encode: Encode, start: int) -> None:
        self.clips = ShapesBatches(recipe.data, recipe.batch_size, start)
        self.encode = encode

    def __iter__(self) -> Iterator[LatentBatch]:
        for batch in self.clips:
            yield LatentBatch(self.encode(batch.pixels), batch.captions, batch.number)


class CachedBatches:
    """Batches `start`, `start` + 1, ... of clips that were encoded once, shuffled anew in every epoch.

    Worth it where encoding a clip takes as long as learning from it.
    """

    def __init__(self, recipe: TransformerRecipe, encode: Encode, start: int) -> None:
        self.recipe = recipe
        self.start = start
        numbers = range(recipe.cached_clips)
        self.captions = [draw_scene(recipe.data.seed, number, split="train").caption for number in numbers]
        self.latents = cached_latents(recipe, encode)

    def __iter__(self) -> Iterator[LatentBatch]:
        size, count = self.recipe.batch_size, self.recipe.cached_clips // self.recipe.batch_size
        for number in itertools.count(self.start):
            epoch, place = divmod(number, count)
            order = torch.randperm(len(self.captions), generator=generator_for(self.recipe.seed, "epoch", epoch))
            chosen = order[place * size : (place + 1) * size]
            yield LatentBatch(self.latents[chosen], [self.captions[i] for i in chosen.tolist()], number)


def cached_latents(recipe: TransformerRecipe, encode: Encode) -> Tensor:
    """(cached_clips, C, t, h, w) float32 latents of the run's first clips, from its folder once they are there."""
    path: Path = recipe.output / CACHE
    if not path.exists() or len(load_file(path)["latents"]) != recipe.cached_clips:
        numbers = range(recipe.cached_clips)
        pieces = (numbers[first : first + PIECE] for first in range(0, len(numbers), PIECE))
        latents = torch.cat([encode(read_batch(recipe.data, piece).pixels) for piece in pieces])
        temporary = path.with_name(path.name + ".tmp")
        save_file({"latents": latents.contiguous()}, temporary)
        os.replace(temporary, path)
    return load_file(path)["latents"]
