"""Decoded pieces of a clip to what the caller asked for.

Letters: B videos, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cogworks.video import Video, to_frames


def collect_videos(chunks: Iterable[Tensor], fps: float) -> list[Video]:
    """One `Video` for each of the batch. Pieces become uint8 at once: a long clip is never held in float.

    Args:
        chunks: (B, 3, T, H, W) in [-1, 1], consecutive.

    Raises:
        VideoError: pixels that are not numbers.
    """
    pieces = [np.stack([to_frames(clip[None]) for clip in chunk]) for chunk in chunks]
    return [Video(frames, fps) for frames in np.concatenate(pieces, axis=1)]


def collect_pixels(chunks: Iterable[Tensor], output_type: Literal["pt", "np"]) -> Tensor | np.ndarray:
    """Float32 in [0, 1], as diffusers gives it: "pt" (B, T, 3, H, W), "np" (B, T, H, W, 3)."""
    pixels = torch.cat([chunk.float().cpu() for chunk in chunks], dim=2)
    pixels = (pixels / 2 + 0.5).clamp(0, 1)
    return pixels.transpose(1, 2) if output_type == "pt" else pixels.permute(0, 2, 3, 4, 1).numpy()
