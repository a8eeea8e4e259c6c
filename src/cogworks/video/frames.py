"""Operations on frames: sizes, pixels in [-1, 1] and back, contact sheets.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.video import Video, check_frames

if TYPE_CHECKING:
    from torch import Tensor

SHEET_GAP = 2  # pixels between the pictures of a contact sheet
SHEET_PAPER = 255


def resize_frames(
    frames: NDArray[np.uint8], height: int, width: int, fit: Literal["stretch", "crop"] = "stretch"
) -> NDArray[np.uint8]:
    """Resize with an anti-aliased bicubic filter.

    Args:
        frames: (T, H, W, 3).
        fit: "stretch" changes the aspect ratio where it must; "crop" keeps it and cuts the sides equally.

    Returns:
        (T, height, width, 3); `frames` itself where nothing changes.

    Raises:
        VideoError: bad frames, a size below 1, or an unknown `fit`.
    """
    from PIL import Image

    check_frames(frames)
    if min(height, width) < 1 or fit not in ("stretch", "crop"):
        raise VideoError(f"cannot resize to {height}x{width} with fit {fit!r}; use a positive size, stretch or crop")
    old_height, old_width = frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return frames
    box = (0.0, 0.0, float(old_width), float(old_height))
    if fit == "crop":
        shrink = min(old_height / height, old_width / width)
        top, left = (old_height - height * shrink) / 2, (old_width - width * shrink) / 2
        box = (left, top, left + width * shrink, top + height * shrink)
    resized = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box) for frame in frames)
    return np.stack([np.asarray(image) for image in resized])


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, 3) uint8 -> (1, 3, T, H, W) float32 in [-1, 1], on the CPU; 0 is -1 and 255 is 1."""
    import torch

    check_frames(frames)
    channels_first = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
    return channels_first[None].float() / 127.5 - 1


def to_frames(pixels: Tensor) -> NDArray[np.uint8]:
    """(1, 3, T, H, W) pixels of any float dtype and device -> (T, H, W, 3) uint8, rounded; outside [-1, 1] is clipped.

    `to_frames(to_pixels(frames))` is `frames`.

    Raises:
        VideoError: not one video of three channels, or a value that is not a number.
    """
    if pixels.ndim != 5 or pixels.shape[0] != 1 or pixels.shape[1] != 3:
        raise VideoError(f"pixels must be (1, 3, frames, height, width), got {tuple(pixels.shape)}; pass one video")
    levels = (pixels.detach()[0].float() + 1) * 127.5
    if levels.isnan().any():
        raise VideoError("pixels hold values that are not numbers (NaN): the network overflowed; try another dtype")
    return levels.round().clamp(0, 255).byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()


def contact_sheet(videos: Sequence[Video], columns: int = 8) -> NDArray[np.uint8]:
    """One row for each video: `columns` of its frames, evenly spaced from the first to the last.

    A video with fewer frames than `columns` shows all of them. Videos may differ in size.

    Returns:
        (H, W, 3) on white paper.

    Raises:
        VideoError: no video, or `columns` below 1.
    """
    if not videos or columns < 1:
        raise VideoError(f"a contact sheet needs a video and a column, got {len(videos)} videos, {columns} columns")
    rows = []
    for video in videos:
        chosen = np.linspace(0, video.num_frames - 1, min(columns, video.num_frames)).round().astype(int)
        rows.append(np.concatenate([_with_margin(video.frames[index]) for index in chosen], axis=1))
    width = max(row.shape[1] for row in rows)
    wide = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=SHEET_PAPER) for row in rows]
    sheet = np.concatenate(wide)
    return np.pad(sheet, ((SHEET_GAP, 0), (SHEET_GAP, 0), (0, 0)), constant_values=SHEET_PAPER)


def _with_margin(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(frame, ((0, SHEET_GAP), (0, SHEET_GAP), (0, 0)), constant_values=SHEET_PAPER)
