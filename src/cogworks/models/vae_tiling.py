"""Spatial tiling: pictures of any size in the memory of one tile.

The picture is cut into overlapping tiles, each passes through the whole VAE alone, and neighbours are blended linearly
over their overlap. Group norms and convolutions then see one tile at a time, so the result is close to that of the
whole picture, not equal.

Letters: B batch, C latent channels, T frames, t latent frames, H W pixels, h w latents.
Source: diffusers' `AutoencoderKLCogVideoX`, whose results these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.errors import RequestError
from cogworks.models.vae import VAE
from cogworks.models.vae_frames import DecodeRule, EncodeRule
from cogworks.models.vae_posterior import Posterior
from cogworks.nn.time_context import Waiting

ROWS, COLUMNS = 3, 4  # dimensions of a (B, C, T, H, W) tensor


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How large tiles are and how far they overlap.

    Attributes:
        height: of a tile, in pixels; a multiple of the VAE's spatial stride, 8.
        width: likewise.
        overlap_height: share of a tile's height that it has in common with the tile below, in [0, 1); rounded down to
            whole latents.
        overlap_width: likewise with the tile to the right.
    """

    height: int
    width: int
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    def __post_init__(self) -> None:
        for name, share in (("overlap_height", self.overlap_height), ("overlap_width", self.overlap_width)):
            if not 0 <= share < 1:
                raise RequestError(f"{name} is a share of the tile and must be in [0, 1), got {share}")

    @classmethod
    def for_config(cls, config: VAEConfig) -> Self:
        """The published tiles: half the size the VAE was trained for, 240x360."""
        height, width = config.sample_size
        return cls(height=height // 2, width=width // 2)


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis, in units of the tensor at hand (latents or pixels)."""

    tile: int
    overlap: int

    @property
    def step(self) -> int:
        return self.tile - self.overlap

    def slices(self, length: int) -> list[slice]:
        return [slice(start, start + self.tile) for start in range(0, length, self.step)]

    def in_pixels(self, stride: int) -> _Axis:
        return _Axis(self.tile * stride, self.overlap * stride)


@dataclass(frozen=True)
class _Grid:
    """Tiles of a picture, in units of the tensor at hand."""

    rows: _Axis
    columns: _Axis

    @classmethod
    def of_latents(cls, tiling: Tiling, stride: int) -> Self:
        axes = []
        for name, pixels, share in (
            ("height", tiling.height, tiling.overlap_height),
            ("width", tiling.width, tiling.overlap_width),
        ):
            if pixels < stride or pixels % stride:
                raise RequestError(f"the {name} of a tile must be a multiple of {stride} pixels, got {pixels}")
            axes.append(_Axis(pixels // stride, int(pixels // stride * share)))
        return cls(*axes)

    def in_pixels(self, stride: int) -> _Grid:
        return _Grid(self.rows.in_pixels(stride), self.columns.in_pixels(stride))

    def holds(self, height: int, width: int) -> bool:
        """Whether one tile holds the whole picture."""
        return height <= self.rows.tile and width <= self.columns.tile

    def tiles(self, height: int, width: int) -> list[list[tuple[slice, slice]]]:
        """Rows and columns of every tile, row by row."""
        return [[(rows, columns) for columns in self.columns.slices(width)] for rows in self.rows.slices(height)]

    def cut(self, x: Tensor) -> list[list[Tensor]]:
        """(B, C, T, H, W) -> overlapping views, row by row."""
        return [[x[..., rows, columns] for rows, columns in row] for row in self.tiles(*x.shape[ROWS:])]

    def join(self, tiles: Iterable[Iterable[Tensor]]) -> Tensor:
        """Blend overlapping tiles into one picture, first with the tile above, then with the one to the left."""
        strips = []
        above: list[Tensor] | None = None
        for row in tiles:
            blended: list[Tensor] = []
            for j, tile in enumerate(row):
                if above is not None:
                    tile = blend(above[j], tile, self.rows.overlap, ROWS)
                if blended:
                    tile = blend(blended[-1], tile, self.columns.overlap, COLUMNS)
                blended.append(tile)
            above = blended
            strips.append(torch.cat([t[..., : self.rows.step, : self.columns.step] for t in blended], dim=COLUMNS))
        return torch.cat(strips, dim=ROWS)


def encode_tiled(vae: VAE, pixels: Tensor, tiling: Tiling, rule: EncodeRule = "chunked") -> Posterior:
    """`vae.encode`, tile by tile.

    A picture that fits in one tile is encoded whole.

    Args:
        pixels: (B, 3, T, H, W), as for `vae.encode`.

    Returns:
        Posterior over (B, C, t, h, w), whose means and log-variances are blended.

    Raises:
        RequestError: a tile size that is no multiple of the spatial stride; what `vae.encode` raises.
    """
    return encode_tiles(
        vae.config,
        lambda rows, columns: vae.moments(pixels[..., rows, columns], rule),
        (pixels.shape[ROWS], pixels.shape[COLUMNS]),
        tiling,
    )


def encode_tiles(
    config: VAEConfig, moments_of: Callable[[slice, slice], Tensor], size: tuple[int, int], tiling: Tiling
) -> Posterior:
    """`encode_tiled` for pixels that exist one tile at a time.

    Args:
        moments_of: rows and columns of a tile -> its moments (B, 2C, t, h, w).
        size: height and width of the picture, in pixels.

    Raises:
        RequestError: a tile size that is no multiple of the spatial stride.
    """
    latent_grid = _Grid.of_latents(tiling, config.spatial_stride)
    grid = latent_grid.in_pixels(config.spatial_stride)
    if grid.holds(*size):
        return Posterior.from_moments(moments_of(slice(None), slice(None)))
    moments = latent_grid.join((moments_of(*tile) for tile in row) for row in grid.tiles(*size))
    return Posterior.from_moments(moments)


def decode_tiled(vae: VAE, latents: Tensor, tiling: Tiling, rule: DecodeRule = "chunked") -> Tensor:
    """`vae.decode`, tile by tile: at any time the network holds what one tile needs.

    Latents that fit in one tile are decoded whole.

    Args:
        latents: (B, C, t, h, w), as for `vae.decode`.

    Returns:
        (B, 3, T, H, W), not clamped.

    Raises:
        RequestError: a tile size that is no multiple of the spatial stride; what `vae.decode` raises.
    """
    grid = _Grid.of_latents(tiling, vae.config.spatial_stride)
    if grid.holds(*latents.shape[ROWS:]):
        return vae.decode(latents, rule)
    pixel_grid = grid.in_pixels(vae.config.spatial_stride)
    return pixel_grid.join((vae.decode(tile, rule) for tile in row) for row in grid.cut(latents))


def decode_tiled_stream(
    vae: VAE,
    latents: Tensor,
    tiling: Tiling,
    rule: DecodeRule = "chunked",
    *,
    strips: int = 1,
    waiting: Callable[[], Waiting] = dict,
) -> Iterator[Tensor]:
    """Consecutive pieces (B, 3, T, H, W) of the clip that `decode_tiled` gives.

    Holds one piece of the clip, and between two pieces the frames that every tile carries over: more than
    `decode_tiled` for a short clip, less for a long one.

    Args:
        vae, latents, tiling, rule: as for `decode_tiled`.
        strips, waiting: as for `vae.decode_stream`; every tile has a place of its own to wait.
    """
    grid = _Grid.of_latents(tiling, vae.config.spatial_stride)
    if grid.holds(*latents.shape[ROWS:]):
        yield from vae.decode_stream(latents, rule, strips=strips, waiting=waiting)
        return
    pixel_grid = grid.in_pixels(vae.config.spatial_stride)
    rows = grid.cut(latents)
    columns = len(rows[0])
    streams = [vae.decode_stream(tile, rule, strips=strips, waiting=waiting) for row in rows for tile in row]
    for tiles in zip(*streams, strict=True):
        yield pixel_grid.join(tiles[start : start + columns] for start in range(0, len(tiles), columns))


def blend(before: Tensor, after: Tensor, overlap: int, dim: int) -> Tensor:
    """Let the end of `before` fade into the beginning of `after`.

    Row k of the n in common becomes (1 - k/n) before + (k/n) after; n is `overlap`, or less where a tile at the
    border is smaller.

    Returns:
        `after` with its first n rows or columns (along `dim`) replaced; a new tensor.
    """
    count = min(overlap, before.shape[dim], after.shape[dim])
    shape = [1] * after.dim()
    shape[dim] = count
    weight = torch.arange(count, device=after.device, dtype=after.dtype).reshape(shape) / max(count, 1)
    common = torch.lerp(before.narrow(dim, before.shape[dim] - count, count), after.narrow(dim, 0, count), weight)
    return torch.cat([common, after.narrow(dim, count, after.shape[dim] - count)], dim=dim)
