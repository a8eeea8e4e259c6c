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

from cogworks.nn.by_runs import GatedAdd, ModulatedNorm, Rows, parts, write_runs
from cogworks.nn.layout import TokenLayout
from cogworks.nn.linear import StackedLinear
from cogworks.nn.overwrite import may_overwrite

_PARTS = ("shift_attention", "scale_attention", "gate_attention", "shift_mlp", "scale_mlp", "gate_mlp")
BLOCK_ROWS = tuple(f"{modality}_{part}" for modality in ("video", "text") for part in _PARTS)


class Modulation(NamedTuple):
    """Rows of one half of a block (attention or feed-forward).

    `gain` is one plus the scale of the published formula.
    """

    shift: Rows
    gain: Rows
    gate: Rows


class BlockModulation(NamedTuple):
    attention: Modulation
    mlp: Modulation


class BlockModulationLinear(StackedLinear):
    """(B, R, E) conditioning, already through SiLU -> the 12 rows of one block, (B, R, 12 D)."""

    def __init__(self, time_width: int, width: int) -> None:
        super().__init__(time_width, width, BLOCK_ROWS)


def with_gains(rows: Tensor) -> Tensor:
    """The output (B, R, 12 D) of a block's modulation linear, with one added to its scales."""
    parts = rows.unflatten(-1, (4, 3, -1))  # shift, scale, gate of each half for each modality
    return (parts + rows.new_tensor([[0.0], [1.0], [0.0]])).flatten(-3)


def block_modulation(rows: Tensor) -> BlockModulation:
    """Name what `with_gains` gave, (B, R, 12 D); views."""
    width = rows.shape[-1] // len(BLOCK_ROWS)
    each = rows.split_with_sizes([width] * len(BLOCK_ROWS), dim=-1)  # 12 x (B, R, D), first those of video
    parts = [Rows(*pair) for pair in zip(each[:6], each[6:], strict=True)]
    return BlockModulation(Modulation(*parts[:3]), Modulation(*parts[3:]))


def modulated_norm(norm: nn.LayerNorm, x: Tensor, rows: Modulation, layout: TokenLayout) -> Tensor:
    """norm(x) * gain + shift, each run of tokens with its own rows. (B, N, D) -> (B, N, D)"""
    if torch.is_grad_enabled() and _is_plain(norm) and _one_dtype(x, norm.weight, *rows.shift, *rows.gain):
        modulated: Tensor = ModulatedNorm.apply(layout, norm.eps, x, norm.weight, norm.bias, *rows.shift, *rows.gain)
        return modulated
    normed = norm(x)
    if torch.is_grad_enabled() or not _one_dtype(normed, *rows.shift, *rows.gain):
        return _joined(rows.shift, normed, rows.gain, layout)
    return write_runs(rows.shift, normed, rows.gain, layout, normed if may_overwrite(norm) else torch.empty_like(x))


def gated_add(x: Tensor, y: Tensor, rows: Modulation, layout: TokenLayout, *, overwrite: bool = False) -> Tensor:
    """x + gate * y, each run of tokens with its own gate. (B, N, D) -> (B, N, D)

    Args:
        overwrite: the result may take the place of `y`. That of `x` it never takes: extensions of the runner keep it.
    """
    if not _one_dtype(x, y, *rows.gate):
        return _joined(x, y, rows.gate, layout)
    if torch.is_grad_enabled():
        added: Tensor = GatedAdd.apply(layout, x, y, *rows.gate)
        return added
    return write_runs(x, y, rows.gate, layout, y if overwrite else torch.empty_like(y))


def _joined(add: Tensor | Rows, x: Tensor, factor: Rows, layout: TokenLayout) -> Tensor:
    """add + factor * x, as anything that follows operations understands it."""
    pieces = zip(parts(add, layout), parts(x, layout), parts(factor, layout), strict=True)
    return torch.cat([torch.addcmul(*piece) for piece in pieces], dim=1)


def _one_dtype(*tensors: Tensor) -> bool:
    """Whether tensors have one dtype, as all have that are written in place; never where torch compiles."""
    return not torch.compiler.is_compiling() and all(tensor.dtype == tensors[0].dtype for tensor in tensors)


def _is_plain(norm: nn.Module) -> bool:
    """Whether a norm is torch's own, computes in the dtype of its input, and nobody listens to it."""
    return (
        type(norm) is nn.LayerNorm
        and not (norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks)
        and (norm.weight.is_meta or not torch.is_autocast_enabled(norm.weight.device.type))
    )


def activate(conditioning: Tensor) -> Tensor:
    """What every modulation linear sees: SiLU of the conditioning vector."""
    return F.silu(conditioning)
