"""Convolution over time and space that looks back in time only.

Letters: B batch, C channels, T frames.
Source: the 3D causal VAE of arXiv:2408.06072, section 2.1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.norm import Affine, GroupNorm, SpatialNorm, silu_affine
from cogworks.nn.onednn_conv import convolve, empty_clip, is_recorded
from cogworks.nn.strips import strips
from cogworks.nn.time_context import TimeContext

KERNEL = 3
# Kernels that index with 32 bits fail or slow down on larger inputs; the published code splits at the same size.
MAX_ELEMENTS = 2**30


class CausalConv3d(nn.Module):
    """A 3x3x3 convolution: zeros around each picture, two earlier frames in front, none behind.

    What the earlier frames are is the time context's to say. Height, width and number of frames are kept.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, KERNEL, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as torch's own convolutions do."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:  # (B, C, T, H, W) -> (B, C', T, H, W)
        return self._over(context.extend(self, x, KERNEL - 1))

    def of_normed(
        self, norm: GroupNorm | SpatialNorm, x: Tensor, context: TimeContext, *latents: Any, last_use: bool = False
    ) -> Tensor:
        """`self(F.silu(norm(x, context, *latents)), context)`: (B, C, T, H, W) -> (B, C', T, H, W).

        Without gradients the normed frames are written straight to where the convolution reads them, behind the
        earlier frames, and nothing else of their size is made; in strips, nothing of their size at all.

        Args:
            latents: what a spatial norm takes besides.
            last_use: `x` may be written over.
        """
        if is_recorded(x):
            return self(F.silu(norm(x, context, *latents)), context)
        affine = norm.fold(x, context, *latents)
        if context.strips > 1:
            return self._in_strips(affine, x, context, last_use=last_use)
        return self._over(context.fill(self, x, KERNEL - 1, lambda room: silu_affine(x, affine, room)))

    def _in_strips(self, affine: Affine, x: Tensor, context: TimeContext, *, last_use: bool) -> Tensor:
        channels, height = len(self.weight), x.shape[3]
        result = x if last_use and channels == x.shape[1] else empty_clip(x, channels=channels)
        above = None  # the row above the strip, which the result may have replaced
        for index, rows in enumerate(strips(height, context.strips, affine.unit(height))):
            write = partial(_write_strip, x, affine, rows, above)
            above = x[:, :, :, rows.stop - 1 : rows.stop].clone()
            # Without a name, which would keep the room of one strip until that of the next is there.
            result[:, :, :, rows] = self._over(
                context.fill((self, index), x, KERNEL - 1, write, height=rows.stop - rows.start + 2), padding=(0, 0, 1)
            )
        return result

    def _over(self, x: Tensor, padding: tuple[int, int, int] = (0, 1, 1)) -> Tensor:
        # (B, C, T + 2, H, W) -> (B, C', T, H, W), or H - 2 without padding in height
        if x.numel() <= MAX_ELEMENTS:
            return self._convolve(x, padding)
        return torch.cat([self._convolve(piece, padding) for piece in _overlapping_pieces(x)], dim=2)

    def _convolve(self, x: Tensor, padding: tuple[int, int, int]) -> Tensor:
        return convolve(x, self.weight, self.bias, padding, (1, 1, 1))


def _write_strip(x: Tensor, affine: Affine, rows: slice, above: Tensor | None, room: Tensor) -> None:
    """Write the normed `rows` of `x`, with one more row on either side, or zeros beyond the picture, to `room`."""
    height = x.shape[3]

    def write(source: Tensor, start: int, stop: int, out: Tensor) -> None:
        silu_affine(source, affine.of_rows(start, stop, height), out)

    write(x[:, :, :, rows], rows.start, rows.stop, room[:, :, :, 1:-1])
    if above is None:
        room[:, :, :, 0] = 0
    else:
        write(above, rows.start - 1, rows.start, room[:, :, :, :1])
    if rows.stop == height:
        room[:, :, :, -1] = 0
    else:
        write(x[:, :, :, rows.stop : rows.stop + 1], rows.stop, rows.stop + 1, room[:, :, :, -1:])


def _overlapping_pieces(x: Tensor) -> list[Tensor]:
    """Views of at most MAX_ELEMENTS (three frames at the least), whose convolutions joined are that of `x`."""
    before = KERNEL - 1
    size = max(MAX_ELEMENTS // x[:, :, 0].numel() - before, 1)
    return [x[:, :, start : start + size + before] for start in range(0, x.shape[2] - before, size)]
