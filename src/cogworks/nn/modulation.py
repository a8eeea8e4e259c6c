"""Modulation: shift, scale and gate of every block, from the timestep alone.

Text and video tokens of a segment take different rows of the table (the "expert" part of the expert
transformer); attention, feed-forward and norms are shared.

Letters: B batch, R modulation rows (segments of a packed row, else 1), N tokens, D width, E conditioning width.
Source: CogVideoX, arXiv:2408.06072, section 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.layout import TokenLayout
from cogworks.nn.linear import StackedLinear

_PARTS = ("shift_attention", "scale_attention", "gate_attention", "shift_mlp", "scale_mlp", "gate_mlp")
BLOCK_ROWS = tuple(f"{modality}_{part}" for modality in ("video", "text") for part in _PARTS)


class Modulation(NamedTuple):
    """Rows of one half of a block (attention or feed-forward): each (B or 1, R, 2, D), dim 2 is (video, text)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class BlockModulation(NamedTuple):
    attention: Modulation
    mlp: Modulation


class BlockModulationLinear(StackedLinear):
    """(B, R, E) conditioning, already through SiLU -> the 12 rows of one block, (B, R, 12 D)."""

    def __init__(self, time_width: int, width: int) -> None:
        super().__init__(time_width, width, BLOCK_ROWS)


def block_modulation(rows: Tensor) -> BlockModulation:
    """Name the output (B, R, 12 D) of a block's modulation linear."""
    parts = rows.unflatten(-1, (2, 6, -1)).unbind(dim=-2)  # 6 x (B, R, 2, D)
    return BlockModulation(Modulation(*parts[:3]), Modulation(*parts[3:]))


def modulated_norm(norm: nn.LayerNorm, x: Tensor, rows: Modulation, layout: TokenLayout) -> Tensor:
    """norm(x) * (1 + scale) + shift, each run of tokens with its own rows. (B, N, D) -> (B, N, D)"""
    normed = norm(x)
    runs = [
        torch.addcmul(
            rows.shift[:, r.modulation_row, r.modality, None],
            normed[:, r.start : r.stop],
            1 + rows.scale[:, r.modulation_row, r.modality, None],
        )
        for r in layout.runs
    ]
    return torch.cat(runs, dim=1)


def gated_add(x: Tensor, y: Tensor, rows: Modulation, layout: TokenLayout) -> Tensor:
    """x + gate * y, each run of tokens with its own gate. (B, N, D) -> (B, N, D)"""
    runs = [
        torch.addcmul(x[:, r.start : r.stop], y[:, r.start : r.stop], rows.gate[:, r.modulation_row, r.modality, None])
        for r in layout.runs
    ]
    return torch.cat(runs, dim=1)


def activate(conditioning: Tensor) -> Tensor:
    """What every modulation linear sees: SiLU of the conditioning vector."""
    return F.silu(conditioning)
