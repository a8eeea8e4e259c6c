"""Group norms of video features whose statistics a time context may provide.

A norm is applied in one of two ways. Its `forward` gives the normed features. Its `fold` gives the scale and shift
that make them, at latent resolution, from which `silu_affine` makes the features after SiLU without another tensor of
their size.

Letters: B batch, C channels, T frames, t latent frames, h w latent positions, G groups.
Source: the spatial norm of MoVQ, arXiv:2209.09002, as the 3D causal VAE of arXiv:2408.06072 uses it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.onednn_conv import PointwiseConv3d, is_channels_last
from cogworks.nn.time_context import TimeContext


class Affine(NamedTuple):
    """What a norm does to its input (B, C, T, H, W): x * scale + shift, the same over a stretch of pixels.

    Attributes:
        scale, shift: (B, C, t, h, w); h and w divide H and W, t - lead divides T - lead. float32 where the input is
            narrower.
        lead: frames at the front (0 or 1) that match one latent frame each.
    """

    scale: Tensor
    shift: Tensor
    lead: int

    def unit(self, height: int) -> int:
        """Rows of pixels, of `height` in all, that have one row of scale and shift in common."""
        return 1 if self.scale.shape[3] == 1 else height // self.scale.shape[3]

    def of_rows(self, start: int, stop: int, height: int) -> Affine:
        """What is done to rows `start` to `stop` of a picture of `height`: whole units, or a part of one."""
        if self.scale.shape[3] == 1:
            return self
        unit = self.unit(height)
        rows = slice(start // unit, -(-stop // unit))
        return Affine(self.scale[:, :, :, rows], self.shift[:, :, :, rows], self.lead)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` over space and the frames that the time context says."""

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:  # type: ignore[override]  # (B, C, T, H, W), same
        statistics = context.statistics(x, self.num_groups)
        if statistics is None:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        scale, shift = self._scale_and_shift(*statistics)
        return torch.addcmul(shift, x, scale)

    def fold(self, x: Tensor, context: TimeContext) -> Affine:
        """What `forward` does, with t, h and w of 1."""
        statistics = context.statistics(x, self.num_groups)
        if statistics is None:
            statistics = group_statistics(x, self.num_groups)
        return Affine(*self._scale_and_shift(*statistics), lead=0)

    def _scale_and_shift(
        self, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:  # (B, G), (B, G) -> (B, C, 1, 1, 1) each
        weight, bias = (each.view(self.num_groups, -1) for each in (self.weight, self.bias))
        scale = weight * torch.rsqrt(variance + self.eps).unsqueeze(-1)  # (B, G, C / G)
        shift = torch.addcmul(bias, mean.unsqueeze(-1), scale, value=-1)
        return scale.view(len(mean), -1, 1, 1, 1), shift.view(len(mean), -1, 1, 1, 1)


class SpatialNorm(nn.Module):
    """A group norm whose scale and shift vary over the picture: 1x1x1 convolutions of the latents.

    The convolutions run at latent resolution: they act on each position alone, so they give the same before and after
    nearest-neighbour upsampling.
    """

    def __init__(self, channels: int, latent_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps)
        self.scale = PointwiseConv3d(latent_channels, channels)
        self.shift = PointwiseConv3d(latent_channels, channels)

    def forward(self, x: Tensor, context: TimeContext, latents: Tensor, lead: int) -> Tensor:
        """(B, C, T, H, W) features and the (B, c, t, h, w) latents they come from -> (B, C, T, H, W).

        `lead` frames at the front (0 or 1) match one latent frame each; the others match in equal shares.
        """
        size = x.shape[2:]
        scale = resize_nearest(self.scale(latents), size, lead)
        shift = resize_nearest(self.shift(latents), size, lead)
        return torch.addcmul(shift, self.norm(x, context), scale)

    def fold(self, x: Tensor, context: TimeContext, latents: Tensor, lead: int) -> Affine:
        """What `forward` does, at latent resolution."""
        inner, outer = self.norm.fold(x, context), self.scale(latents)
        return Affine(inner.scale * outer, inner.shift * outer + self.shift(latents), lead)


def group_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group of channels: (B, C, T, H, W) -> (B, G) twice."""
    if not (x.device.type == "cpu" and is_channels_last(x)):
        variance, mean = torch.var_mean(x.unflatten(1, (groups, -1)), dim=(2, 3, 4, 5), correction=0)
        return mean, variance
    # torch's var_mean takes fifteen times as long as the first half of a batch norm, which takes rows of channels. A
    # row of pixels serves as one: so its sums have few terms, and lose nothing.
    rows = x.movedim(1, -1).flatten(3).movedim(-1, 1)  # (B, W x C, T, H)
    pairs = [torch.batch_norm_update_stats(sample, None, None, 0.0) for sample in rows.split(1)]
    means, variances = (torch.stack(s).view(len(x), -1, groups, x.shape[1] // groups) for s in zip(*pairs, strict=True))
    spread, mean = torch.var_mean(means, dim=(1, 3), correction=0)
    return mean, variances.mean((1, 3)) + spread


def silu_affine(x: Tensor, affine: Affine, out: Tensor) -> None:
    """Write silu(x * scale + shift) to `out`. Without gradients only.

    Args:
        x: (B, C, T, H, W).
        out: as `x`, which it may be.
    """
    lead, width = affine.lead, x.shape[4]
    # One row of pixels is written out, so that the innermost loop is long; frames and rows are repeated in place.
    scale, shift = (_repeat_columns(s, width // s.shape[4], is_channels_last(x)) for s in (affine.scale, affine.shift))
    for frames in (slice(0, lead), slice(lead, None)):
        if x[:, :, frames].shape[2]:
            shape = scale[:, :, frames].shape
            source, target = (_by_latents(t[:, :, frames], shape) for t in (x, out))
            torch.addcmul(_stretched(shift[:, :, frames]), source, _stretched(scale[:, :, frames]), out=target)
    F.silu(out, inplace=True)


def resize_nearest(x: Tensor, size: torch.Size, lead: int) -> Tensor:
    """Repeat frames, rows and columns up to `size`, a whole multiple, but the first `lead` frames not in time.

    (B, C, t, h, w) -> (B, C, T, H, W), with T - lead a multiple of t - lead.
    """
    frames, height, width = size
    latent_frames, latent_height, latent_width = x.shape[2:]
    x = repeat(x, (1, height // latent_height, width // latent_width))
    if frames != latent_frames:
        x = repeat_frames(x, (frames - lead) // (latent_frames - lead), lead)
    return x


def repeat_frames(x: Tensor, times: int, lead: int) -> Tensor:
    """Repeat each frame after the first `lead`: (B, C, t, H, W) -> (B, C, lead + (t - lead) * times, H, W)."""
    if x.shape[2] == lead:
        return x  # joined with no frames at all it would lose its layout
    rest = repeat(x[:, :, lead:], (times, 1, 1))
    return torch.cat([x[:, :, :lead], rest], dim=2) if lead else rest


def repeat(x: Tensor, times: tuple[int, int, int]) -> Tensor:
    """Repeat each frame, row and column so many times: (B, C, T, H, W) -> (B, C, times T, times H, times W)."""
    last = is_channels_last(x)
    if last:
        x = x.movedim(1, -1)
    batch, first, second, third, fourth = x.shape
    inner, outer = ((1,), ()) if last else ((), (1,))
    counts = (*outer, *times, *inner)  # of each dimension but the batch, in the order of memory
    sizes = (first, second, third, fourth)
    x = x.reshape(batch, *(n for size in sizes for n in (size, 1)))
    x = x.expand(batch, *(n for pair in zip(sizes, counts, strict=True) for n in pair))
    x = x.reshape(batch, *(size * count for size, count in zip(sizes, counts, strict=True)))
    return x.movedim(-1, 1) if last else x


def _repeat_columns(x: Tensor, times: int, last: bool) -> Tensor:
    """(B, C, t, h, w) -> (B, C, t, h, times w), with channels last or not."""
    if last:
        return x.movedim(1, -1).repeat_interleave(times, dim=3).movedim(-1, 1)
    return x.repeat_interleave(times, dim=4)


def _by_latents(x: Tensor, shape: torch.Size) -> Tensor:
    """View (B, C, T, H, W), by the latents (B, C, t, h, W) that match: (B, C, t, T/t, h, H/h, W)."""
    return x.unflatten(3, (shape[3], -1)).unflatten(2, (shape[2], -1))


def _stretched(x: Tensor) -> Tensor:  # (B, C, t, h, W) -> (B, C, t, 1, h, 1, W)
    return x[:, :, :, None, :, None]
