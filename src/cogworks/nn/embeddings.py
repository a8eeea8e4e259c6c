"""Embeddings: of the timestep, of patches and text, and the position tables that are added to tokens.

Letters: B batch, N tokens, D width, C channels, T H W latent frames, rows, columns.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.layout import TokenLayout
from cogworks.nn.linear import Linear


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is remembered must also serve training
def _frequencies(half: int, device: torch.device) -> Tensor:
    # exp is rounded from float64: vectorised float32 exp differs by a unit in the last place between CPUs, and at
    # t = 999 that is 1e-4 of an angle.
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    return exponents.double().exp().float().to(device)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) in float32: [cos(t f) | sin(t f)], f_i = 10000^(-i / (width / 2))."""
    angles = values.float()[..., None] * _frequencies(width // 2, values.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class SinusoidEmbedding(nn.Module):
    """A scalar through its sinusoid and two linears with SiLU between: (B,) -> (B, out_width)."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.up = Linear(in_width, out_width)
        self.down = Linear(out_width, out_width)

    def forward(self, values: Tensor) -> Tensor:
        return self.down(F.silu(self.up(sinusoid(values, self.in_width).to(self.up.weight.dtype))))


class PatchEmbedding(nn.Module):
    """Latents and text embeddings to one sequence, text first.

    A patch is a vector ordered (channel, t, h, w), channel slowest.
    """

    def __init__(self, in_channels: int, patch_size: tuple[int, int, int], text_width: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = Linear(in_channels * math.prod(patch_size), width)
        self.text_proj = Linear(text_width, width)

    def forward(self, latents: Tensor, text_tokens: Tensor) -> Tensor:
        """(B, C, T, H, W) and text that went through `text_proj`, (k B, M, D) -> (k B, M + N, D)."""
        pt, ph, pw = self.patch_size
        patches = rearrange(latents, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        video_tokens = self.proj(patches)
        times = len(text_tokens) // len(latents)
        return torch.cat([text_tokens, video_tokens.repeat(times, 1, 1) if times > 1 else video_tokens], dim=1)


def unpatchify(patches: Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> Tensor:
    """(B, t*h*w, C*pt*ph*pw) -> (B, C, T, H, W); `grid` is (t, h, w) in tokens."""
    (t, h, w), (pt, ph, pw) = grid, patch_size
    return rearrange(patches, "b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)


class NoPositions(nn.Module):
    """Nothing is added: the positions are rotary alone."""

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return tokens


class SinCosPositions(nn.Module):
    """Adds the fixed 3D sin-cos table to video tokens; text tokens get zeros. Used by 2B."""

    def __init__(self, width: int, spatial_interpolation: float, temporal_interpolation: float) -> None:
        super().__init__()
        self.width = width
        self.spatial_interpolation = spatial_interpolation
        self.temporal_interpolation = temporal_interpolation

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        interpolation = self.spatial_interpolation, self.temporal_interpolation
        return tokens + _sincos_rows(layout, self.width, *interpolation, tokens.dtype, tokens.device)


class LearnedPositions(nn.Module):
    """Adds a learned table to all tokens, text included. Fixed to the training size. Used by 5B-I2V."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, num_tokens, width))

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        if len(layout.segments) != 1 or layout.length != self.table.shape[1]:
            raise ValueError(
                f"this model has a learned position table for {self.table.shape[1]} tokens and got {layout.length}: "
                "it works at its training size alone (height, width, frames and text length)"
            )
        return tokens + self.table.to(tokens.dtype)


@lru_cache(maxsize=2)  # one may be as large as the tokens
@torch.inference_mode(False)  # what is remembered must also serve training
def _sincos_rows(
    layout: TokenLayout,
    width: int,
    spatial_interpolation: float,
    temporal_interpolation: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:  # (N, width)
    parts = []
    for segment in layout.segments:
        grid = (segment.frames, segment.rows, segment.columns)
        video = sincos_table(grid, width, spatial_interpolation, temporal_interpolation)
        parts += [video.new_zeros(segment.text, width), video]
    return torch.cat(parts).to(device, dtype)


def sincos_table(
    grid: tuple[int, int, int], width: int, spatial_interpolation: float, temporal_interpolation: float
) -> Tensor:
    """The (t*h*w, width) float64 table of 2B.

    Each row is [time, width/4 | column, 3 width/8 | row, 3 width/8] (column before row); each part is
    [sin(p w_k) | cos(p w_k)] with w_k = 10000^(-k / (n/2)), n the size of the part.
    """
    # Positions are rounded to float32, as in the reference, whose stored table this equals bit for bit.
    t, h, w = (torch.arange(size, dtype=torch.float32) for size in grid)
    time, row, column = torch.meshgrid(
        t / temporal_interpolation, h / spatial_interpolation, w / spatial_interpolation, indexing="ij"
    )
    parts = []
    for positions, part in ((time, width // 4), (column, 3 * width // 8), (row, 3 * width // 8)):
        frequencies = 10000.0 ** (-torch.arange(part // 2, dtype=torch.float64) / (part / 2))
        angles = positions.flatten()[:, None].double() * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)
