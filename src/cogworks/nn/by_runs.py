"""Token tensors of which each run (text or video of one segment) has rows of its own: products, sums, gradients.

Autograd would join and split tokens at every step; here each run is written where it belongs, forwards and backwards,
and no more is kept for the backward pass than it needs.

Letters: B batch, R modulation rows (segments of a packed row, else 1), N tokens, n tokens of a run, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogworks.nn.layout import Run, TokenLayout


class Rows(NamedTuple):
    """What multiplies or is added to tokens, (B or 1, R, D) each; indexed by a run's modality."""

    video: Tensor
    text: Tensor


def parts(x: Tensor | Rows, layout: TokenLayout) -> Sequence[Tensor]:
    """Of each run its tokens (B, n, D), or its row (B or 1, 1, D); views."""
    if isinstance(x, Rows):
        return [_row(x[run.modality], run) for run in layout.runs]
    return x.split_with_sizes(layout.lengths, dim=1)


def write_runs(add: Tensor | Rows, x: Tensor, factor: Rows, layout: TokenLayout, out: Tensor) -> Tensor:
    """Write add + factor * x to `out`, which may be `x`. Without gradients.

    Args:
        add: tokens (B, N, D), or rows like `factor`.
        x, out: tokens (B, N, D).
    """
    # As few views as can be: the block of a small model has no time for more.
    tokens = parts(x, layout)
    places = tokens if out is x else parts(out, layout)
    for added, piece, row, place in zip(parts(add, layout), tokens, parts(factor, layout), places, strict=True):
        torch.addcmul(added, piece, row, out=place)
    return out


class GatedAdd(torch.autograd.Function):
    """x + gate * y, differentiable: `apply(layout, x, y, gate.video, gate.text)`."""

    @staticmethod
    def forward(layout: TokenLayout, x: Tensor, y: Tensor, video: Tensor, text: Tensor) -> Tensor:
        return write_runs(x, y, Rows(video, text), layout, torch.empty_like(y))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout, _, y, video, text = inputs
        _, _, needs_y, *needs_rows = ctx.needs_input_grad
        ctx.shapes = video.shape, text.shape
        # Where modulation is not trained, as in most LoRAs, the tokens are not needed.
        ctx.save_for_backward(y if any(needs_rows) else None, *((video, text) if needs_y else (None, None)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y, *gate), layout = ctx.saved_tensors, ctx.layout
        _, needs_x, needs_y, *needs_rows = ctx.needs_input_grad
        buffer, to_rows = torch.empty_like(grad), _NO_GRADIENTS
        if any(needs_rows):
            to_rows = _sums(torch.mul(grad, y, out=buffer), layout, ctx.shapes, needs_rows)
        if needs_y:  # where the product was: both are never there at once
            _scale(grad, Rows(*gate), layout, buffer)
        return None, grad if needs_x else None, buffer if needs_y else None, *to_rows


class ModulatedNorm(torch.autograd.Function):
    """norm(x) * gain + shift, differentiable: `apply(layout, eps, x, weight, bias, *shift, *gain)`.

    Keeps `x` alone: what is normed is computed again in the backward pass, where the gradients of the rows want it.
    """

    @staticmethod
    def forward(
        ctx: Any, layout: TokenLayout, eps: float, x: Tensor, weight: Tensor, bias: Tensor, *rows: Tensor
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        ctx.layout, ctx.eps, ctx.shapes = layout, eps, [row.shape for row in rows]
        ctx.save_for_backward(x, weight, bias, mean, rstd, *rows[2:])
        return write_runs(Rows(*rows[:2]), normed, Rows(*rows[2:]), layout, normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, bias, mean, rstd, *gain), layout = ctx.saved_tensors, ctx.layout
        needs, needs_shift, needs_gain = (ctx.needs_input_grad[i:j] for i, j in ((2, 5), (5, 7), (7, 9)))
        to_shift, to_gain = _NO_GRADIENTS, _NO_GRADIENTS
        if any(needs_shift):
            to_shift = _sums(grad, layout, ctx.shapes[:2], needs_shift)
        if any(needs_gain):
            buffer = torch.native_layer_norm(x, x.shape[-1:], weight, bias, ctx.eps)[0]
            to_gain = _sums(buffer.mul_(grad), layout, ctx.shapes[2:], needs_gain)
        else:
            buffer = torch.empty_like(grad)
        _scale(grad, Rows(*gain), layout, buffer)
        through = torch.ops.aten.native_layer_norm_backward(
            buffer, x, x.shape[-1:], mean, rstd, weight, bias, list(needs)
        )
        return None, None, *through, *to_shift, *to_gain


_NO_GRADIENTS: list[Tensor | None] = [None, None]


def _row(rows: Tensor, run: Run) -> Tensor:  # (B, R, D) -> (B, 1, D)
    return rows if rows.shape[1] == 1 else rows.narrow(1, run.modulation_row, 1)


def _scale(x: Tensor, factor: Rows, layout: TokenLayout, out: Tensor) -> None:
    """Write factor * x to `out`; all tokens are (B, N, D)."""
    for piece, row, place in zip(parts(x, layout), parts(factor, layout), parts(out, layout), strict=True):
        torch.mul(piece, row, out=place)


def _sums(x: Tensor, layout: TokenLayout, shapes: Sequence[torch.Size], needs: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of rows, of a shape (B or 1, R, D) for each modality: sums of tokens (B, N, D) over their runs."""
    gradients: list[Tensor | None] = []
    for modality, (shape, needed) in enumerate(zip(shapes, needs, strict=True)):
        mine = [pair for pair in zip(layout.runs, parts(x, layout), strict=True) if pair[0].modality == modality]
        if not needed:
            gradients.append(None)
        elif len(mine) == 1 and shape[1] == 1:
            gradients.append(_sum(mine[0][1], shape))
        else:
            rows = x.new_zeros(shape)
            for run, piece in mine:
                place = _row(rows, run)
                place += _sum(piece, shape)
            gradients.append(rows)
    return gradients


def _sum(tokens: Tensor, shape: torch.Size) -> Tensor:
    """(B, n, D) -> (B or 1, 1, D), as many as `shape` has."""
    return tokens.sum(1 if shape[0] == len(tokens) else (0, 1), keepdim=True)
