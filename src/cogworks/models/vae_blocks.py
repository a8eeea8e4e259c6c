"""Blocks of the 3D causal VAE: residual block, downsampling, upsampling.

Letters: B batch, C channels, T frames, c latent channels, t latent frames.
Source: arXiv:2408.06072, section 2.1 and its appendix.
"""

from __future__ import annotations

from torch import Tensor, cat, nn
from torch.nn import functional as F

from cogworks.nn.causal_conv import CausalConv3d
from cogworks.nn.norm import GroupNorm, SpatialNorm, repeat, repeat_frames
from cogworks.nn.onednn_conv import Conv2d, PointwiseConv3d, convolve, empty_clip
from cogworks.nn.strips import strips
from cogworks.nn.time_context import TimeContext


class EncoderBlock(nn.Module):
    """Two rounds of norm, SiLU and causal convolution beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:  # (B, C, T, H, W) -> (B, C', T, H, W)
        h = self.conv1.of_normed(self.norm1, x, context)
        h = self.conv2.of_normed(self.norm2, h, context, last_use=True)
        return _add_shortcut(h, self.shortcut, x, context)


class DecoderBlock(nn.Module):
    """The same with spatial norms, which see the latents that entered the decoder."""

    def __init__(self, in_channels: int, out_channels: int, latent_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = SpatialNorm(in_channels, latent_channels, groups, eps)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = SpatialNorm(out_channels, latent_channels, groups, eps)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, context: TimeContext, latents: Tensor, lead: int) -> Tensor:
        """(B, C, T, H, W), (B, c, t, h, w) -> (B, C', T, H, W)."""
        h = self.conv1.of_normed(self.norm1, x, context, latents, lead)
        h = self.conv2.of_normed(self.norm2, h, context, latents, lead, last_use=True)
        return _add_shortcut(h, self.shortcut, x, context)


class Downsample(nn.Module):
    """Average frames in pairs, where `in_time`, then a 3x3 convolution of stride 2 in each frame."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)
        self.in_time = in_time

    def forward(self, x: Tensor, context: TimeContext, lead: int) -> Tensor:
        """(B, C, T, H, W) -> (B, C, lead + (T - lead) / 2, H / 2, W / 2); T is kept where not `in_time`."""
        if self.in_time and x.shape[2] > lead:
            pooled = (x[:, :, lead::2] + x[:, :, lead + 1 :: 2]).mul_(0.5)
            x = cat([x[:, :, :lead], pooled], dim=2) if lead else pooled
        pictures = _pictures(x)
        if context.strips == 1:
            return _clip(self.conv(F.pad(pictures, (0, 1, 0, 1))), x)  # zeros on the right and at the bottom only
        height, width = (size // 2 for size in pictures.shape[2:])
        result = empty_clip(x, height=height, width=width)
        for rows in strips(height, context.strips):
            taken = pictures[:, :, 2 * rows.start : 2 * rows.stop + 1]
            result[:, :, :, rows] = _clip(self.conv(F.pad(taken, (0, 1, 0, int(rows.stop == height)))), x)
        return result


class Upsample(nn.Module):
    """Double height and width by repetition, a 3x3 convolution in each frame, then double frames where `in_time`.

    The convolution acts on each frame alone, so frames are doubled after it, at half the work of doubling before.
    """

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)
        self.in_time = in_time

    def forward(self, x: Tensor, context: TimeContext, lead: int) -> Tensor:
        """(B, C, T, H, W) -> (B, C, lead + 2 (T - lead), 2H, 2W); T is kept where not `in_time`."""
        x = _clip(self.conv(_doubled(_pictures(x))), x) if context.strips == 1 else self._in_strips(x, context.strips)
        return repeat_frames(x, 2, lead) if self.in_time else x

    def _in_strips(self, x: Tensor, count: int) -> Tensor:
        pictures, height = _pictures(x), x.shape[3]
        result = empty_clip(x, channels=self.conv.out_channels, height=2 * height, width=2 * x.shape[4])
        for rows in strips(height, count):
            result[:, :, :, 2 * rows.start : 2 * rows.stop] = _clip(self._strip(pictures, rows), x)
        return result

    def _strip(self, pictures: Tensor, rows: slice) -> Tensor:
        """What becomes of `rows` of the pictures: (B T, C, H, W) -> (B T, C, twice as many rows, 2W)."""
        # The convolution reads one doubled row on either side: half of a row of x, or zeros beyond the picture.
        above, below = (1 if border else -1 for border in (rows.start == 0, rows.stop == pictures.shape[2]))
        doubled = F.pad(_doubled(pictures[:, :, max(rows.start - 1, 0) : rows.stop + 1]), (0, 0, above, below))
        return convolve(doubled, self.conv.weight, self.conv.bias, (0, 1), (1, 1))


def _pictures(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    # Joined with a batch of one, a single frame would lose its layout.
    return x[0].transpose(0, 1) if len(x) == 1 else x.transpose(1, 2).flatten(0, 1)


def _clip(pictures: Tensor, x: Tensor) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W), where `x` is (B, _, T, _, _)."""
    return pictures.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _doubled(pictures: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), by repetition."""
    return repeat(pictures.unsqueeze(2), (1, 2, 2)).squeeze(2)


def _add_shortcut(h: Tensor, shortcut: nn.Module, x: Tensor, context: TimeContext) -> Tensor:
    """`h` plus the shortcut of `x`, in place."""
    if context.strips == 1 or isinstance(shortcut, nn.Identity):
        return h.add_(shortcut(x))
    for rows in strips(x.shape[3], context.strips):
        h[:, :, :, rows] += shortcut(x[:, :, :, rows])
    return h


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else PointwiseConv3d(in_channels, out_channels)
