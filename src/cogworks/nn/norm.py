"""Group norms of video features whose statistics a time context may provide.

Letters: B batch, C channels, T frames, t latent frames, G groups.
Source: the spatial norm of MoVQ, arXiv:2209.09002, as the 3D causal VAE of arXiv:2408.06072 uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.time_context import TimeContext


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` over space and the frames that the time context says."""

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:  # type: ignore[override]  # (B, C, T, H, W), same
        statistics = context.statistics(x, self.num_groups)
        if statistics is None:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        mean, variance = (s.repeat_interleave(self.num_channels // self.num_groups, dim=1) for s in statistics)
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (B, C)
        shift = self.bias - mean * scale
        return torch.addcmul(_over_pixels(shift), x, _over_pixels(scale))


class SpatialNorm(nn.Module):
    """A group norm whose scale and shift vary over the picture: 1x1x1 convolutions of the latents.

    The convolutions run at latent resolution: they act on each position alone, so they give the same before and after
    nearest-neighbour upsampling.
    """

    def __init__(self, channels: int, latent_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps)
        self.scale = nn.Conv3d(latent_channels, channels, 1)
        self.shift = nn.Conv3d(latent_channels, channels, 1)

    def forward(self, x: Tensor, context: TimeContext, latents: Tensor, lead: int) -> Tensor:
        """(B, C, T, H, W) features and the (B, c, t, h, w) latents they come from -> (B, C, T, H, W).

        `lead` frames at the front (0 or 1) match one latent frame each; the others match in equal shares.
        """
        size = x.shape[2:]
        scale = resize_nearest(self.scale(latents), size, lead)
        shift = resize_nearest(self.shift(latents), size, lead)
        return torch.addcmul(shift, self.norm(x, context), scale)


def resize_nearest(x: Tensor, size: torch.Size, lead: int) -> Tensor:
    """Repeat frames, rows and columns up to `size`, a whole multiple, but the first `lead` frames not in time.

    (B, C, t, h, w) -> (B, C, T, H, W), with T - lead a multiple of t - lead.
    """
    frames, height, width = size
    batch, channels, latent_frames, latent_height, latent_width = x.shape
    x = x[:, :, :, :, None, :, None].expand(
        -1, -1, -1, -1, height // latent_height, -1, width // latent_width
    )  # (B, C, t, h, H/h, w, W/w)
    if frames != latent_frames:
        x = repeat_frames(x, (frames - lead) // (latent_frames - lead), lead)
    return x.reshape(batch, channels, frames, height, width)


def repeat_frames(x: Tensor, times: int, lead: int) -> Tensor:
    """Repeat each frame after the first `lead`: (B, C, t, ...) -> (B, C, lead + (t - lead) * times, ...)."""
    rest = x[:, :, lead:]
    rest = rest.unsqueeze(3).expand(*rest.shape[:3], times, *rest.shape[3:]).flatten(2, 3)
    return torch.cat([x[:, :, :lead], rest], dim=2) if lead else rest


def _over_pixels(x: Tensor) -> Tensor:  # (B, C) -> (B, C, 1, 1, 1)
    return x[:, :, None, None, None]
