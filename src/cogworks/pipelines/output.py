"""Decoded pieces of clips to what the caller asked for.

Letters: B videos, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogworks.video import Video, to_frames


def frames_of(piece: Tensor) -> NDArray[np.uint8]:
    """A piece (B, 3, T, H, W) in [-1, 1] as frames (B, T, H, W, 3): a long clip is never held in float."""
    return np.stack([to_frames(clip[None]) for clip in piece])


def pixels_of(piece: Tensor) -> Tensor:
    """A piece (B, 3, T, H, W) in [-1, 1] as float32 pixels in [0, 1] on the CPU, same shape."""
    return (piece.float().cpu() / 2 + 0.5).clamp(0, 1)


def join_videos(groups: Sequence[Sequence[NDArray[np.uint8]]], fps: float) -> list[Video]:
    """The `Video`s of all groups; a group is the consecutive pieces (B, T, H, W, 3) of some of the batch."""
    return [Video(frames, fps) for pieces in groups for frames in np.concatenate(pieces, axis=1)]


def join_pixels(groups: Sequence[Sequence[Tensor]], output_type: Literal["pt", "np"]) -> Tensor | np.ndarray:
    """As diffusers gives pixels: "pt" (B, T, 3, H, W), "np" (B, T, H, W, 3), from pieces (B, 3, T, H, W)."""
    pixels = torch.cat([torch.cat(list(pieces), dim=2) for pieces in groups])
    return pixels.transpose(1, 2) if output_type == "pt" else pixels.permute(0, 2, 3, 4, 1).numpy()
