"""Convolution over time and space that looks back in time only.

Letters: B batch, C channels, T frames.
Source: the 3D causal VAE of arXiv:2408.06072, section 2.1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.norm import GroupNorm, SpatialNorm, silu_affine
from cogworks.nn.onednn_conv import convolve, is_recorded
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

    def of_normed(self, norm: GroupNorm | SpatialNorm, x: Tensor, context: TimeContext, *latents: Any) -> Tensor:
        """`self(F.silu(norm(x, context, *latents)), context)`: (B, C, T, H, W) -> (B, C', T, H, W).

        Without gradients the normed frames are written straight to where the convolution reads them, behind the
        earlier frames, and nothing else of their size is made.
        """
        if is_recorded(x):
            return self(F.silu(norm(x, context, *latents)), context)
        affine = norm.fold(x, context, *latents)
        return self._over(context.fill(self, x, KERNEL - 1, lambda room: silu_affine(x, affine, room)))

    def _over(self, x: Tensor) -> Tensor:  # (B, C, T + 2, H, W) -> (B, C', T, H, W)
        if x.numel() <= MAX_ELEMENTS:
            return self._convolve(x)
        return torch.cat([self._convolve(piece) for piece in _overlapping_pieces(x)], dim=2)

    def _convolve(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, (0, 1, 1), (1, 1, 1))


def _overlapping_pieces(x: Tensor) -> list[Tensor]:
    """Views of at most MAX_ELEMENTS (three frames at the least), whose convolutions joined are that of `x`."""
    before = KERNEL - 1
    size = max(MAX_ELEMENTS // x[:, :, 0].numel() - before, 1)
    return [x[:, :, start : start + size + before] for start in range(0, x.shape[2] - before, size)]
