"""Operations on frames: sizes, pixels in [-1, 1] and back, hashes, contact sheets.

The floor of this package: it imports none of its neighbours.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError

if TYPE_CHECKING:
    from torch import Tensor

    from cogworks.video.video import Video

Fit = Literal["crop", "pad", "stretch"]

MAX_FRAME_BYTES = 4 * 2**30  # of one video in memory: 4142 frames of 720x480, 690 of 1920x1080
MAX_UPSCALE = 8
SHEET_GAP = 2  # pixels between the pictures of a contact sheet
SHEET_PAPER = 255


def check_frames(frames: NDArray[np.uint8]) -> None:
    """Raise `VideoError` unless `frames` is (T, H, W, 3) uint8 with nothing empty."""
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise VideoError(f"frames must be an array (frames, height, width, 3) with nothing empty, got shape {shape}")
    if frames.dtype != np.uint8:
        raise VideoError(f"frames must be uint8 in 0..255, got {frames.dtype}; convert pixels with to_frames")


def hash_frames(frames: NDArray[np.uint8]) -> str:
    """SHA-256, in hexadecimal, over the shape ("49x480x720x3" in ASCII) and then the bytes, last axis fastest.

    Equal for equal pixels only, wherever and however they lie in memory.
    """
    check_frames(frames)
    digest = hashlib.sha256("x".join(map(str, frames.shape)).encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def resize_frames(
    frames: NDArray[np.uint8], height: int, width: int, fit: Fit = "crop", place: float = 0.5
) -> NDArray[np.uint8]:
    """Resize with an anti-aliased bicubic filter.

    Args:
        frames: (T, H, W, 3).
        fit: what happens where the aspect ratio differs: "crop" covers the new size and cuts off what is left over,
            "pad" fits into it between black bars, "stretch" changes the ratio. All three are one where it is the same.
        place: of "crop": which part is kept, from 0, the left or upper end, to 1; 0.5 cuts both sides equally.

    Returns:
        (T, height, width, 3); `frames` itself where nothing changes.

    Raises:
        VideoError: bad frames, a size below 1, an unknown `fit`, or a `place` outside 0 to 1.
    """
    check_frames(frames)
    if min(height, width) < 1 or fit not in get_args(Fit):
        raise VideoError(
            f"cannot resize to {height}x{width} with fit {fit!r}; use a positive size and crop, pad or stretch"
        )
    if not 0 <= place <= 1:
        raise VideoError(f"place must be from 0, the left or upper end, to 1; got {place}")
    old_height, old_width = frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return frames
    wider = old_width * height - old_height * width  # the old picture is wider than the new one: positive
    if fit == "pad" and wider:
        inner_height = height if wider < 0 else max(1, round(old_height * width / old_width))
        inner_width = width if wider > 0 else max(1, round(old_width * height / old_height))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        padded = np.zeros((len(frames), height, width, 3), np.uint8)
        padded[:, top : top + inner_height, left : left + inner_width] = resize_frames(
            frames, inner_height, inner_width, "stretch"
        )
        return padded
    box = (0.0, 0.0, float(old_width), float(old_height))
    if fit == "crop" and wider > 0:
        spare = old_width - old_height * width / height
        box = (spare * place, 0.0, old_width - spare * (1 - place), float(old_height))
    elif fit == "crop" and wider < 0:
        spare = old_height - old_width * height / width
        box = (0.0, spare * place, float(old_width), old_height - spare * (1 - place))
    return _scaled(frames, height, width, "BICUBIC", box)


def upscale_frames(frames: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Enlarge what a small model made, for the eye, with a Lanczos filter: closer to the picture than a bicubic one.

    Args:
        frames: (T, H, W, 3).
        factor: whole, 1 to 8; 1 changes nothing.

    Returns:
        (T, factor H, factor W, 3).

    Raises:
        VideoError: bad frames, another `factor`, or a result of more than `MAX_FRAME_BYTES`.
    """
    check_frames(frames)
    if isinstance(factor, bool) or not isinstance(factor, int) or not 1 <= factor <= MAX_UPSCALE:
        raise VideoError(f"frames can be enlarged by a whole factor from 1 to {MAX_UPSCALE}, not by {factor!r}")
    if factor == 1:
        return frames
    if frames.nbytes * factor**2 > MAX_FRAME_BYTES:
        raise VideoError(f"frames {factor} times as large need more than {MAX_FRAME_BYTES >> 30} GiB; use less")
    height, width = (side * factor for side in frames.shape[1:3])
    return _scaled(frames, height, width, "LANCZOS")


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
    return sheet_of([video.frames for video in videos], columns)


def sheet_of(clips: Sequence[NDArray[np.uint8]], columns: int = 8) -> NDArray[np.uint8]:
    """`contact_sheet` of bare frames, each (T, H, W, 3)."""
    if not clips or columns < 1:
        raise VideoError(f"a contact sheet needs a video and a column, got {len(clips)} videos, {columns} columns")
    rows = []
    for frames in clips:
        chosen = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        rows.append(np.concatenate([_with_margin(frames[index]) for index in chosen], axis=1))
    width = max(row.shape[1] for row in rows)
    wide = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=SHEET_PAPER) for row in rows]
    sheet = np.concatenate(wide)
    return np.pad(sheet, ((SHEET_GAP, 0), (SHEET_GAP, 0), (0, 0)), constant_values=SHEET_PAPER)


def _with_margin(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(frame, ((0, SHEET_GAP), (0, SHEET_GAP), (0, 0)), constant_values=SHEET_PAPER)


def _scaled(
    frames: NDArray[np.uint8],
    height: int,
    width: int,
    filter_name: Literal["BICUBIC", "LANCZOS"],
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """The part of every frame inside `box` (left, top, right, bottom; all of it if None), (T, height, width, 3)."""
    from PIL import Image

    scaled = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame).resize((width, height), Image.Resampling[filter_name], box)
        scaled[index] = np.asarray(image)
    return scaled
