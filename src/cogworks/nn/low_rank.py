"""What a LoRA adds to a linear, as plain data: files are read to it, extensions attach it.

Letters: r rank, I input width, O output rows.
Source: LoRA, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cogworks.nn.linear import StackedLinear


@dataclass(frozen=True, eq=False)
class LowRank:
    """One factor pair: (alpha / r) lora_b lora_a is added to the weight, or to some of its row blocks.

    Attributes:
        path: of the linear in its network, for example `blocks.3.attention.qkv`.
        rows: names of the row blocks of a `StackedLinear` that the rows of `lora_b` belong to, in their order; empty
            for a linear without row blocks.
        lora_a: (r, I), floating-point.
        lora_b: (O, r), floating-point.
        alpha: strength times rank.
    """

    path: str
    rows: tuple[str, ...]
    lora_a: Tensor
    lora_b: Tensor
    alpha: float

    def __post_init__(self) -> None:
        a, b = self.lora_a, self.lora_b
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or len(a) == 0 or len(b) % max(1, len(self.rows)):
            raise ValueError(f"{self.target}: factors {tuple(a.shape)} and {tuple(b.shape)} do not go together")

    @property
    def target(self) -> str:
        """What it acts on, as messages and files of ours call it: `blocks.3.attention.qkv:q`."""
        return f"{self.path}:{','.join(self.rows)}" if self.rows else self.path

    @property
    def rank(self) -> int:
        return len(self.lora_a)

    @property
    def strength(self) -> float:
        return self.alpha / self.rank


def row_slices(linear: nn.Linear, pair: LowRank) -> list[slice]:
    """The rows of `linear` that each block of `pair.lora_b` is added to, in the order of the blocks.

    Raises:
        ValueError: the pair was made for a linear of another shape or with other row blocks.
    """
    width, height, blocks = linear.in_features, linear.out_features, [slice(None)]
    if pair.rows:
        names = linear.names if isinstance(linear, StackedLinear) else ()
        unknown = [name for name in pair.rows if name not in names]
        if unknown or not isinstance(linear, StackedLinear):
            raise ValueError(f"{pair.path} has no row block {unknown[0]}")
        height, blocks = linear.block_features * len(pair.rows), [linear.rows(name) for name in pair.rows]
    made_for = (pair.lora_a.shape[1], len(pair.lora_b))
    if made_for != (width, height):
        raise ValueError(f"{pair.target} is {width} -> {height}, its LoRA is {made_for[0]} -> {made_for[1]}")
    return blocks


def add_low_rank(weight: Tensor, linear: nn.Linear, pairs: Sequence[tuple[LowRank, float]]) -> Tensor:
    """The weight of `linear` with all of `pairs` in it, each times its scale, in float32 or better.

    Args:
        weight: (O, I); not changed.
        linear: what it belongs to; only its widths and row blocks are looked at.
        pairs: factor pairs for this linear, added in this order.

    Raises:
        ValueError: a pair does not fit.
    """
    total = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    for pair, scale in pairs:
        product = (pair.lora_b.to(total) @ pair.lora_a.to(total)) * (scale * pair.strength)
        blocks = row_slices(linear, pair)
        for rows, part in zip(blocks, product.chunk(len(blocks)), strict=True):
            total[rows] += part
    return total
