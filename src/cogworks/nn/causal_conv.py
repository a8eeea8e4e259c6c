"""Convolution over time and space that looks back in time only.

Letters: B batch, C channels, T frames.
Source: the 3D causal VAE of arXiv:2408.06072, section 2.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        x = context.extend(self, x, KERNEL - 1)
        if x.numel() <= MAX_ELEMENTS:
            return self._convolve(x)
        return torch.cat([self._convolve(piece) for piece in _overlapping_pieces(x)], dim=2)

    def _convolve(self, x: Tensor) -> Tensor:  # (B, C, T + 2, H, W) -> (B, C', T, H, W)
        return F.conv3d(x, self.weight, self.bias, padding=(0, 1, 1))


def _overlapping_pieces(x: Tensor) -> list[Tensor]:
    """Views of at most MAX_ELEMENTS (three frames at the least), whose convolutions joined are that of `x`."""
    before = KERNEL - 1
    size = max(MAX_ELEMENTS // x[:, :, 0].numel() - before, 1)
    return [x[:, :, start : start + size + before] for start in range(0, x.shape[2] - before, size)]
