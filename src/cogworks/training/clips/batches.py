"""What a step learns from: batches that are functions of their number.

A batch depends on the data, the seed, its number and the replica alone. So nothing has to be remembered to go on
where a run stopped but the next number, and any process can prepare any batch.

Letters: B samples of this replica, T frames, H W pixels, C latent channels, t h w latents, M text tokens, D text width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cogworks.config.training_data import ShapesData
from cogworks.training.clips.shapes_clips import shapes_clip


class PixelBatch(NamedTuple):
    """Clips as they are.

    Attributes:
        pixels: (B, 3, T, H, W) float32 in [-1, 1].
        captions: of the clips.
        number: of the batch in the run.
        images: (B, 3, H, W) float32 in [-1, 1]: what image to video begins with, where that is not the first frames.
    """

    pixels: Tensor
    captions: list[str]
    number: int
    images: Tensor | None = None


class LatentBatch(NamedTuple):
    """A batch that was encoded before.

    Attributes:
        latents: (B, C, t, h, w) float32, those of the diffusion process.
        captions: of the clips.
        number: of the batch in the run.
        text_emb: (B, M, D) the captions' embeddings, in the dtype of their encoder; None where it is trained too.
        empty_emb: (1, M, D) likewise that of the empty caption.
        images: (B, 3, H, W) float32 in [-1, 1]: what image to video begins with; None where no image is taken.
    """

    latents: Tensor
    captions: list[str]
    number: int
    text_emb: Tensor | None = None
    empty_emb: Tensor | None = None
    images: Tensor | None = None


class CaptionBatch(NamedTuple):
    """Captions whose facts are known.

    Attributes:
        ids: (B, M) int64 tokens.
        facts: (B, M, F) int64, what each token tells (`text_encoder.facts.FACTS`).
        number: of the batch in the run.
    """

    ids: Tensor
    facts: Tensor
    number: int


ClipBatch = PixelBatch | LatentBatch
Batch = ClipBatch | CaptionBatch


def batch_size(batch: Batch) -> int:
    """How many samples a batch has."""
    if isinstance(batch, CaptionBatch):
        return len(batch.ids)
    return len(batch.latents if isinstance(batch, LatentBatch) else batch.pixels)


class Batches(Protocol):
    """The batches of a run, by number; a `torch.utils.data.DataLoader` takes them with `batch_size=None`."""

    def __getitem__(self, number: int) -> Batch: ...

    def fingerprint(self) -> str:
        """One hash of all that decides what a number stands for; a run that goes on on other data says so."""


class ShapesBatches:
    """The Shapes world without end.

    Args:
        batch_size: of each replica.
    """

    def __init__(self, data: ShapesData, batch_size: int, *, replica: int = 0, replicas: int = 1) -> None:
        self.data = data
        self.batch_size = batch_size
        self.replica = replica
        self.replicas = replicas

    def __getitem__(self, number: int) -> PixelBatch:
        first = (number * self.replicas + self.replica) * self.batch_size
        clips = [shapes_clip(self.data, index) for index in range(first, first + self.batch_size)]
        return PixelBatch(to_batch([frames for frames, _ in clips]), [caption for _, caption in clips], number)

    def fingerprint(self) -> str:
        return self.data.model_dump_json()


def to_batch(clips: list[NDArray[np.uint8]]) -> Tensor:
    """Clips (T, H, W, 3) of one shape -> (B, 3, T, H, W) float32 in [-1, 1]."""
    return levels_to_pixels(rearrange(torch.from_numpy(np.stack(clips)), "b t h w c -> b c t h w"))


def levels_to_pixels(levels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], of any shape. It holds nothing besides: a batch of pixels is large."""
    return levels.float().div_(127.5).sub_(1)
