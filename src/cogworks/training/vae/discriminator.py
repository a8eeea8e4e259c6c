"""The discriminator of VAE training: tells clips from their reconstructions, patch by patch.

Letters: B batch, C channels, T frames, H W pixels.
Sources: the 3D discriminator of SAT's VAE trainer (residual stages whose sum is divided by the root of two, LeakyReLU
of slope 0.1, time halved in the first stages); logits for patches as in arXiv:1611.07004, so that any size will do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

MAX_WIDTH = 512
SLOPE = 0.1


class DiscriminatorStage(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut, height and width halved, and frames too where `in_time`.

    Odd sizes are rounded up: what stands alone at the end is kept. So one frame stays one frame.
    """

    def __init__(self, in_channels: int, out_channels: int, *, in_time: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1)
        self.stride = (2 if in_time else 1, 2, 2)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W) -> (B, C', T / 2 or T, H / 2, W / 2)
        h = F.leaky_relu(self.conv1(x), SLOPE)
        h = F.leaky_relu(self.conv2(h), SLOPE)
        # The shortcut acts on each position alone, so it may come after the averaging.
        return (self._halve(h) + self.shortcut(self._halve(x))) / math.sqrt(2)

    def _halve(self, x: Tensor) -> Tensor:
        kernel = [min(step, size) for step, size in zip(self.stride, x.shape[2:], strict=True)]
        return F.avg_pool3d(x, kernel, ceil_mode=True)


class Discriminator(nn.Module):
    """Residual stages and a convolution to one logit for each patch; positive means real.

    There are no batch statistics: a logit depends on its own clip alone, whatever else is in the batch.

    Args:
        in_channels: of the pixels.
        width: channels of the first stage; each next one has twice as many, up to 512.
        stages: how often height and width are halved.
        time_stages: how many of them, from the first on, halve the frames too.
    """

    def __init__(self, in_channels: int, width: int, stages: int, time_stages: int) -> None:
        super().__init__()
        widths = [in_channels, *(min(width * 2**i, MAX_WIDTH) for i in range(stages))]
        self.stages = nn.ModuleList(
            DiscriminatorStage(widths[i], widths[i + 1], in_time=i < time_stages) for i in range(stages)
        )
        self.head = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1], any T, H and W -> (B, 1, T', H', W') logits of patches."""
        x = pixels
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


def judge(discriminator: Discriminator, pixels: Tensor) -> Tensor:
    """The logits of `pixels`, with gradients for the pixels and none for the discriminator."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    logits: Tensor = functional_call(discriminator, frozen, (pixels,))
    return logits


def judge_both(discriminator: Discriminator, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of two batches of one shape, with gradients for the discriminator and none for the pixels."""
    logits = discriminator(torch.cat([real, fake]).detach())
    real_logits, fake_logits = logits.chunk(2)
    return real_logits, fake_logits
