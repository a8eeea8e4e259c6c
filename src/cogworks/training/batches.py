"""Batches of the Shapes world, without end, whose place is part of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

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


class ShapesBatches:
    """Batch n holds scenes n * batch_size and on; `replica` of `num_replicas` takes its own share of the scenes."""

    def __init__(self, data: ShapesData, batch_size: int, replica: int = 0, num_replicas: int = 1) -> None:
        self.data = data
        self.batch_size = batch_size
        self.replica = replica
        self.num_replicas = num_replicas
        self.number = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            first = (self.number * self.num_replicas + self.replica) * self.batch_size
            number = self.number
            self.number += 1
            yield read_batch(self.data, range(first, first + self.batch_size), number)

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def read_batch(data: ShapesData, indices: range, number: int = 0) -> Batch:
    """Render the training scenes with these indices."""
    clips = [render(data.seed, index, data.size, data.frames, data.fps, split="train") for index in indices]
    frames = torch.from_numpy(np.stack([frames for frames, _ in clips]))
    pixels = rearrange(frames, "b t h w c -> b c t h w").float() / 127.5 - 1
    return Batch(pixels, [caption for _, caption in clips], number)
