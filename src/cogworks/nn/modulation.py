"""Modulation: shift, scale and gate of every block, from the timestep alone.

Text and video tokens of a segment take different rows of the table (the "expert" part of the expert
transformer); attention, feed-forward and norms are shared.

Letters: B batch, R modulation rows (segments of a packed row, else 1), N tokens, D width, E conditioning width.
Source: CogVideoX, arXiv:2408.06072, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cogworks.nn.layout import Run, TokenLayout
from cogworks.nn.linear import StackedLinear
from cogworks.nn.overwrite import may_overwrite

_PARTS = ("shift_attention", "scale_attention", "gate_attention", "shift_mlp", "scale_mlp", "gate_mlp")
BLOCK_ROWS = tuple(f"{modality}_{part}" for modality in ("video", "text") for part in _PARTS)


class Modulation(NamedTuple):
    """Rows of one half of a block (attention or feed-forward): each (B or 1, R, 2, D), dim 2 is (video, text).

    `gain` is one plus the scale of the published formula.
    """

    shift: Tensor
    gain: Tensor
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
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = rows.unflatten(-1, (2, 6, -1)).unbind(-2)  # 6 x (B, R, 2, D)
    return BlockModulation(Modulation(shift, 1 + scale, gate), Modulation(mlp_shift, 1 + mlp_scale, mlp_gate))


def modulated_norm(norm: nn.LayerNorm, x: Tensor, rows: Modulation, layout: TokenLayout) -> Tensor:
    """norm(x) * gain + shift, each run of tokens with its own rows. (B, N, D) -> (B, N, D)"""
    normed = norm(x)
    return _by_runs(rows.shift, normed, rows.gain, layout, out=normed if may_overwrite(norm) else None)


def gated_add(x: Tensor, y: Tensor, rows: Modulation, layout: TokenLayout, *, overwrite: bool = False) -> Tensor:
    """x + gate * y, each run of tokens with its own gate. (B, N, D) -> (B, N, D)

    Args:
        overwrite: the result may take the place of `y`. That of `x` it never takes: extensions of the runner keep it.
    """
    return _by_runs(x, y, rows.gate, layout, out=y if overwrite else None)


def _by_runs(add: Tensor, x: Tensor, factor: Tensor, layout: TokenLayout, out: Tensor | None) -> Tensor:
    """add + factor * x, run by run.

    Args:
        add: tokens (B, N, D), or rows like `factor`.
        x: tokens (B, N, D).
        factor: rows (B or 1, R, 2, D).
        out: where to write the result, without gradients; may be `x`.
    """
    if torch.compiler.is_compiling() or not add.dtype == x.dtype == factor.dtype:
        pieces = zip(_parts(add, layout), _parts(x, layout), _parts(factor, layout), strict=True)
        return torch.cat([torch.addcmul(*piece) for piece in pieces], dim=1)
    if torch.is_grad_enabled():
        result: Tensor = _ByRuns.apply(add, x, factor, layout)
        return result
    return _write_runs(add, x, factor, layout, torch.empty_like(x) if out is None else out)


def _parts(x: Tensor, layout: TokenLayout) -> list[Tensor]:
    """Of each run its tokens (B, n, D), or its row (B or 1, 1, D) of a tensor of rows; views."""
    if x.ndim == 4:
        return [_row(x, run) for run in layout.runs]
    return [x.narrow(1, run.start, run.stop - run.start) for run in layout.runs]


def _row(rows: Tensor, run: Run) -> Tensor:  # (B, R, 2, D) -> (B, 1, D)
    of_modality = rows.select(2, run.modality)
    return of_modality if rows.shape[1] == 1 else of_modality.narrow(1, run.modulation_row, 1)


def _write_runs(add: Tensor, x: Tensor, factor: Tensor, layout: TokenLayout, out: Tensor) -> Tensor:
    # As few views as can be: the block of a small model has no time for more.
    for run in layout.runs:
        start, length = run.start, run.stop - run.start
        tokens = x.narrow(1, start, length)
        place = tokens if out is x else out.narrow(1, start, length)
        added = _row(add, run) if add.ndim == 4 else add.narrow(1, start, length)
        torch.addcmul(added, tokens, _row(factor, run), out=place)
    return out


class _ByRuns(torch.autograd.Function):
    """`_write_runs` with gradients, each of which is written in place too: autograd would join and split tokens."""

    @staticmethod
    def forward(add: Tensor, x: Tensor, factor: Tensor, layout: TokenLayout) -> Tensor:
        return _write_runs(add, x, factor, layout, torch.empty_like(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, TokenLayout], output: Tensor) -> None:
        add, x, factor, ctx.layout = inputs
        ctx.save_for_backward(x, factor)
        ctx.rows_shape = add.shape if add.ndim == 4 else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, factor = ctx.saved_tensors
        needs_add, needs_x, needs_factor, _ = ctx.needs_input_grad
        grads = _parts(grad, ctx.layout)
        to_add = to_x = to_factor = None
        if needs_add:
            to_add = grad if ctx.rows_shape is None else _sum_to_rows(grads, ctx.layout, grad.new_zeros(ctx.rows_shape))
        if needs_x:
            to_x = torch.empty_like(x)
            for piece, row, place in zip(grads, *(_parts(each, ctx.layout) for each in (factor, to_x)), strict=True):
                torch.mul(piece, row, out=place)
        if needs_factor:
            products = (piece * tokens for piece, tokens in zip(grads, _parts(x, ctx.layout), strict=True))
            to_factor = _sum_to_rows(products, ctx.layout, torch.zeros_like(factor))
        return to_add, to_x, to_factor, None


def _sum_to_rows(pieces: Iterable[Tensor], layout: TokenLayout, rows: Tensor) -> Tensor:
    """Add the sum of each run's tokens to its row, for `rows` of zeros."""
    for row, piece in zip(_parts(rows, layout), pieces, strict=True):
        row += piece.sum(1 if len(rows) == len(piece) else (0, 1), keepdim=True)
    return rows


def activate(conditioning: Tensor) -> Tensor:
    """What every modulation linear sees: SiLU of the conditioning vector."""
    return F.silu(conditioning)
