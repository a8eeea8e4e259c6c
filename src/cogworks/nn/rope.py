"""3D rotary positions.

A head of width d splits into time d/4, row 3d/8, column 3d/8. Each part rotates interleaved pairs (2k, 2k+1) by
position * 10000^(-2k / n), n the width of the part. Text tokens are not rotated: their angle is zero.

Source: CogVideoX, arXiv:2408.06072, section 2.2; docs/parity.md#rotary-positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogworks.config.architecture import TransformerConfig
from cogworks.nn.layout import VIDEO, Run, TokenLayout


class Rope(NamedTuple):
    """cos and sin of every token's angles, each (N, d/2) float32, and both as `phase`, (N, d/2) complex64.

    `video` has the phases of each run of video tokens: all others are one.
    """

    cos: Tensor
    sin: Tensor
    phase: Tensor
    video: tuple[tuple[Run, Tensor], ...]


def apply_rope(x: Tensor, rope: Rope, layout: TokenLayout, *, overwrite: bool = False) -> Tensor:
    """Rotate the heads x (B, H, N, d) in float32; the result has the dtype of `x`.

    Args:
        overwrite: the result may take the place of `x`; then text, whose angles are zero, is not touched.
    """
    if torch.compiler.is_compiling() or x.device.type == "mps":  # neither is good at complex numbers
        return _rotate_real(x, rope)
    if not overwrite:
        return _rotate(x, rope.phase).type_as(x)
    for run, phase in rope.video:
        video = x[:, :, run.start : run.stop]
        if x.dtype == torch.float32:
            video.view(torch.complex64).mul_(phase)
        else:
            video.copy_(_rotate(video, phase))
    return x


def _rotate_real(x: Tensor, rope: Rope) -> Tensor:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * rope.cos - odd * rope.sin, odd * rope.cos + even * rope.sin], dim=-1)
    return rotated.flatten(-2).type_as(x)


def _rotate(x: Tensor, phase: Tensor) -> Tensor:
    """float32, whatever `x` is; differentiable."""
    rotated: Tensor = _Rotation.apply(x.float(), phase)
    return rotated


def _pairs(x: Tensor) -> Tensor:
    """(..., d) -> (..., d/2) complex; a view, but of gradients whose strides do not allow it."""
    aligned = x.stride(-1) == 1 and not any(step % 2 for step in (*x.stride()[:-1], x.storage_offset()))
    return torch.view_as_complex(
        (x if aligned else x.clone(memory_format=torch.contiguous_format)).unflatten(-1, (-1, 2))
    )


class _Rotation(torch.autograd.Function):
    """Backwards the same rotation the other way, without the copies that autograd takes of complex numbers."""

    @staticmethod
    def forward(x: Tensor, phase: Tensor) -> Tensor:
        return torch.view_as_real(_pairs(x) * phase).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (phase,) = ctx.saved_tensors
        return _Rotation.forward(grad, phase.conj()), None


def crop_positions(grid: tuple[int, int], base: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column positions of the 1.0 models: `grid` is resized to fit `base` and centred in it.

    Args:
        grid: (rows, columns) of video tokens.
        base: (rows, columns) at the training size; there the positions are 0, 1, 2, ...

    Returns:
        float32 positions of the rows and of the columns.
    """
    (rows, columns), (base_rows, base_columns) = grid, base
    if rows / columns > base_rows / base_columns:
        fitted = base_rows, round(base_rows / rows * columns)
    else:
        fitted = round(base_columns / columns * rows), base_columns
    positions = []
    for size, full, fit in zip(grid, base, fitted, strict=True):
        start = round((full - fit) / 2.0)
        positions.append(torch.linspace(start, (start + fit) * (size - 1) / size, size))
    return positions[0], positions[1]


def count_positions(grid: tuple[int, int], base: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column positions of the 1.5 models: 0, 1, 2, ... whatever the training size."""
    return torch.arange(grid[0]).float(), torch.arange(grid[1]).float()


def _angles(positions: Tensor, width: int) -> Tensor:
    return positions[:, None] * (10000.0 ** (-torch.arange(0, width, 2).float() / width))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is remembered must also serve training
def _rope(layout: TokenLayout, config: TransformerConfig, device: torch.device) -> Rope:
    spatial = {"crop": crop_positions, "slice": count_positions}[config.rope]
    width = config.head_width
    parts = []
    for segment in layout.segments:
        rows, columns = spatial((segment.rows, segment.columns), config.sample_grid)
        time, row, column = (
            _angles(positions, part)
            for positions, part in (
                (torch.arange(segment.frames).float(), width // 4),
                (rows, 3 * width // 8),
                (columns, 3 * width // 8),
            )
        )
        grid = (segment.frames, segment.rows, segment.columns)
        video = torch.cat(
            [
                time[:, None, None].expand(*grid, -1),
                row[None, :, None].expand(*grid, -1),
                column[None, None, :].expand(*grid, -1),
            ],
            dim=-1,
        )
        parts += [torch.zeros(segment.text, width // 2), video.flatten(0, 2)]
    angles = torch.cat(parts).to(device)
    cos, sin = angles.cos(), angles.sin()
    phase = torch.complex(cos, sin)
    phases = tuple((run, phase[run.start : run.stop]) for run in layout.runs if run.modality == VIDEO)
    return Rope(cos, sin, phase, phases)


def rope_table(layout: TokenLayout, config: TransformerConfig, device: torch.device) -> Rope | None:
    """The rotation of every token of `layout`, or None for a model without rotary positions."""
    return None if config.rope == "none" else _rope(layout, config, device)
