"""Batches of the Shapes world, without end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cogworks.config.recipe import ShapesData
from cogworks.data.shapes import render


class Batch(NamedTuple):
    """`pixels` (B, 3, T, H, W) float32 in [-1, 1], their captions, and the number of the batch in the run."""

    pixels: Tensor
    captions: list[str]
    number: int


class LatentBatch(NamedTuple):
    """`latents` (B, C, t, h, w) of the diffusion process, their captions, and the number of the batch in the run."""

    latents: Tensor
    captions: list[str]
    number: int


class ShapesBatches:
    """Batches `start`, `start` + 1, ...: batch n holds scenes n * batch_size and on, whoever asks and whenever."""

    def __init__(self, data: ShapesData, batch_size: int, start: int = 0) -> None:
        self.data = data
        self.batch_size = batch_size
        self.start = start

    def __iter__(self) -> Iterator[Batch]:
        for number in itertools.count(self.start):
            first = number * self.batch_size
            yield read_batch(self.data, range(first, first + self.batch_size), number)


def read_batch(data: ShapesData, indices: range, number: int = 0) -> Batch:
    """Render the training scenes with these indices."""
    clips = [render(data.seed, index, data.size, data.frames, data.fps, split="train") for index in indices]
    frames = torch.from_numpy(np.stack([frames for frames, _ in clips]))
    pixels = rearrange(frames, "b t h w c -> b c t h w").float() / 127.5 - 1
    return Batch(pixels, [caption for _, caption in clips], number)
