"""Clips and captions that were encoded once: what they are called on the disk, and batches of them.

    FOLDER/latents/3f/3fa9....safetensors   `latents` (C, t, h, w) of the diffusion process; `image` (H, W, 3) uint8,
                                            what image to video begins with
    FOLDER/texts/c1/c10e....safetensors     `text_emb` (M, D)
    FOLDER/lists/88d0....json               which clips a recipe has: names, captions and contents

Tensors have the dtype of the network that made them: float32 would hold the same numbers in twice the space.
A name is a hash of all that decides what is in the file: content of the clip, weights of the network, settings. So one
folder serves many recipes, and what is there need never be made again or replaced.

Letters: B samples, C latent channels, t h w latents, H W pixels, M text tokens, D text width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogworks.config.recipe import Recipe
from cogworks.config.training_data import Bucket, ClipsData, ShapesData
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.data.buckets import sort_by_bucket
from cogworks.data.clips import ClipFault
from cogworks.data.epochs import EpochOrder
from cogworks.errors import DataError, RecipeError, RunError
from cogworks.training.clips.batches import Batches, LatentBatch, ShapesBatches, levels_to_pixels
from cogworks.training.clips.read import open_clips, order_fingerprint
from cogworks.training.clips.sources import hash_of, source_of
from cogworks.training.transformer.start import Parts, find_parts, helper_dtype, load_tokenizer_part
from cogworks.weights.fingerprint import part_hash
from cogworks.weights.storage import write_json

FORMAT = 1  # of lists, and of what hashes are made from


class PreparedClip(NamedTuple):
    """A clip of a list.

    Attributes:
        name: in its source.
        caption: with the prefix of the recipe.
        stamp: of its file, when it was read.
        content: a hash of what it shows.
        bucket: the shape that it was brought to.
        num_bytes: of its file of latents.
    """

    name: str
    caption: str
    stamp: str
    content: str
    bucket: Bucket
    num_bytes: int


@dataclass(frozen=True)
class PreparedClips:
    """What a recipe has of clips: those that are prepared, and what was left out."""

    items: tuple[PreparedClip, ...] = ()
    faults: tuple[ClipFault, ...] = ()
    complete: bool = False


@dataclass(frozen=True)
class PreparedFolder:
    """A folder of prepared clips as a recipe sees it.

    Attributes:
        path: of the folder.
        latents_key: a hash of the encoder and of all settings that latents depend on.
        texts_key: likewise of embeddings; None where the text encoder is trained and there are none.
        list_key: of all that decides which clips there are, as far as the recipe tells.
    """

    path: Path
    latents_key: str
    texts_key: str | None
    list_key: str

    def latents_file(self, content: str, bucket: Bucket) -> Path:
        return self._file("latents", hash_of(self.latents_key, content, tuple(bucket)))

    def text_file(self, caption: str) -> Path:
        return self._file("texts", hash_of(self.texts_key, caption))

    @property
    def list_file(self) -> Path:
        return self.path / "lists" / f"{self.list_key}.json"

    def read_list(self) -> PreparedClips:
        """The clips of the recipe as they were last found; none where there is no list that can be read."""
        try:
            content = json.loads(self.list_file.read_text(encoding="utf-8"))
            items = tuple(
                PreparedClip(name, caption, stamp, sha, Bucket(*bucket), num_bytes)
                for name, caption, stamp, sha, bucket, num_bytes in content["clips"]
            )
            return PreparedClips(
                items, tuple(ClipFault(*fault) for fault in content["faults"]), bool(content["complete"])
            )
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            return PreparedClips()

    def write_list(self, clips: PreparedClips) -> None:
        """Replace the list. Raises RunError if it cannot be written."""
        content = {"complete": clips.complete, "clips": clips.items, "faults": clips.faults}
        try:
            write_json(self.list_file, content)
        except OSError as error:
            raise RunError(f"cannot write {self.list_file}: {error.strerror or error}") from None

    def _file(self, kind: str, key: str) -> Path:
        return self.path / kind / key[:2] / f"{key}.safetensors"


def prepared_folder(recipe: TransformerRecipe, parts: Parts) -> PreparedFolder:
    """The folder that a recipe names. Reads no network; the hashes of weight files are remembered.

    Raises:
        RecipeError: the recipe names none, or clips that look different every time.
        WeightsError: a weight file cannot be read.
    """
    if recipe.prepared is None:
        raise RecipeError("the recipe names no folder for what is prepared: set prepared")
    data = recipe.data
    if isinstance(data, ClipsData) and "random" in (data.start, data.crop):
        raise RecipeError(
            "clips that start or are cropped at random look different in every epoch and cannot be prepared: "
            "choose another data.start and data.crop, or leave prepared out"
        )
    views = data.model_dump_json(exclude={"source", "sizes", "caption_prefix"}) if isinstance(data, ClipsData) else ""
    draw = "mode" if recipe.codec is not None or recipe.posterior == "mode" else f"sample {recipe.seed}"
    latents_key = hash_of(FORMAT, _encoder_hash(recipe, parts), views, draw)
    texts_key = None
    if not recipe.train_text_encoder:
        texts_key = hash_of(FORMAT, _text_hash(recipe, parts), parts.variant.transformer.text_tokens)
    list_key = hash_of(FORMAT, latents_key, texts_key, data.model_dump_json(), recipe.clips)
    return PreparedFolder(recipe.prepared, latents_key, texts_key, list_key)


def _encoder_hash(recipe: TransformerRecipe, parts: Parts) -> str:
    if recipe.codec is not None:
        try:
            return hash_of("codec", recipe.codec.read_bytes().hex())
        except OSError:
            raise RecipeError(
                f"there is no linear codec at {recipe.codec}: start the recipe of the VAE first"
            ) from None
    assert parts.vae_folder is not None  # only a codec can stand in for it
    return hash_of("vae", part_hash(parts.vae_folder, "vae"), parts.variant.vae, helper_dtype(parts.variant))


def _text_hash(recipe: TransformerRecipe, parts: Parts) -> str:
    if parts.text_folder is None:
        raise RecipeError("only the embeddings of a model's text encoder can be prepared: name one under text_encoder")
    weights, tokenizer = part_hash(parts.text_folder, "text_encoder"), load_tokenizer_part(recipe, parts)
    return hash_of(weights, parts.variant.text_encoder, tokenizer.model_bytes.hex(), helper_dtype(parts.variant))


def read_tensor(path: Path, name: str) -> Tensor:
    """A tensor of a prepared file. Nothing stays open. Raises DataError if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except FileNotFoundError:
        raise DataError(f"{path} is missing: `cogworks data prepare RECIPE` makes it again") from None
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is damaged ({error}): remove it, and `cogworks data prepare RECIPE` makes it again"
        ) from None


class PreparedBatches:
    """This replica's share of every batch, read from a prepared folder; no network is needed.

    Args:
        clips: what the order's numbers stand for.
        images: whether batches hold what image to video begins with.
    """

    def __init__(
        self,
        folder: PreparedFolder,
        clips: Sequence[PreparedClip],
        order: EpochOrder,
        *,
        replica: int = 0,
        images: bool = False,
    ) -> None:
        self.folder = folder
        self.clips = clips
        self.order = order
        self.replica = replica
        self.images = images

    def __getitem__(self, number: int) -> LatentBatch:
        share = self.order.share(number, self.replica)
        clips = [self.clips[index] for index in share.indices]
        files = [self.folder.latents_file(clip.content, clip.bucket) for clip in clips]
        latents = torch.stack([read_tensor(file, "latents") for file in files]).float()
        captions = [clip.caption for clip in clips]
        texts = empty = images = None
        if self.folder.texts_key is not None:
            texts, empty = torch.stack([self._text(caption) for caption in captions]), self._text("")[None]
        if self.images:
            frames = torch.stack([read_tensor(file, "image") for file in files])
            images = levels_to_pixels(rearrange(frames, "b h w c -> b c h w"))
        return LatentBatch(latents, captions, number, texts, empty, images)

    def fingerprint(self) -> str:
        clips = hash_of(*((clip.content, clip.caption) for clip in self.clips))
        return hash_of(self.folder.latents_key, self.folder.texts_key, clips, order_fingerprint(self.order))

    def _text(self, caption: str) -> Tensor:
        return read_tensor(self.folder.text_file(caption), "text_emb")


def open_prepared(recipe: TransformerRecipe, parts: Parts, size: int, replica: int, replicas: int) -> PreparedBatches:
    """Batches of `size` prepared clips for one replica.

    Raises:
        DataError: they were not prepared, or there are fewer than replicas.
    """
    folder = prepared_folder(recipe, parts)
    clips = folder.read_list()
    if not clips.complete:
        raise DataError(f"{folder.path} does not hold the clips of this recipe: run `cogworks data prepare RECIPE`")
    order = EpochOrder(sort_by_bucket(clip.bucket for clip in clips.items), size, replicas, recipe.seed)
    return PreparedBatches(folder, clips.items, order, replica=replica, images=parts.variant.takes_image)


def open_batches(recipe: Recipe, replica: int, replicas: int) -> Batches:
    """What one replica of a run learns from: prepared clips, clips as they are, or the Shapes world without end.

    Raises:
        DataError: no clip can be used, there are fewer than replicas, or they were not prepared.
        RecipeError, WeightsError: what the recipe names is not there or does not fit.
    """
    size = recipe.batch_size // recipe.accumulate
    if isinstance(recipe, TransformerRecipe) and recipe.prepared is not None:
        return open_prepared(recipe, find_parts(recipe), size, replica, replicas)
    source = source_of(recipe)
    if source is not None:
        return open_clips(recipe, source, size, replica, replicas)
    assert isinstance(recipe.data, ShapesData)  # files are a source
    return ShapesBatches(recipe.data, size, replica=replica, replicas=replicas)
