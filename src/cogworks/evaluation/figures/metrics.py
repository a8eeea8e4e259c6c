"""Numbers that compare videos, and the uncertainty of a share.

Letters: T frames, H height, W width, C channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cogworks.video.frames import resize_frames

MAX_PSNR = 100.0  # dB, what equal videos count as where a number is needed
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as the published SSIM of colour images


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape; equal arrays give infinity.

    Raises:
        ValueError: the shapes differ.
    """
    _check_pair(a, b)
    error = np.mean(np.square(a.astype(np.float32) - b.astype(np.float32)), dtype=np.float64)
    return 10 * math.log10(255**2 / error) if error else math.inf


def first_frame_psnr(image: NDArray[np.uint8], frames: NDArray[np.uint8]) -> float:
    """PSNR in dB of the first frame against the image that it was to be, at most 100.

    Args:
        image: (H, W, 3), of any size; it comes to that of the video as `Pipeline.generate` brings it there.
        frames: (T, H, W, 3).
    """
    height, width = frames.shape[1:3]
    return min(psnr(frames[0], resize_frames(image[None], height, width)[0]), MAX_PSNR)


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of the luma, averaged over pixels and frames; 1 for equal videos.

    Args:
        a, b: (T, H, W, 3), H and W at least 11; only windows wholly inside the frame count.

    Raises:
        ValueError: the shapes differ or a frame is smaller than the window.

    Source: Wang et al. 2004, eq. 13, with a Gaussian window of 11 and sigma 1.5.
    """
    _check_pair(a, b)
    if a.ndim != 4 or min(a.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"ssim needs frames (T, H, W, 3) of at least {SSIM_WINDOW} pixels a side, got {a.shape}")
    x, y = (video.astype(np.float64) @ np.asarray(LUMA) for video in (a, b))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Bounds of a share between 0 and 1; the default `z` gives 95 % confidence. No trials give (0, 1).

    Source: Wilson 1927; unlike the normal approximation it holds near 0 and 1.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and total, got {successes} of {total}")
    if total == 0:
        return 0.0, 1.0
    share, weight = successes / total, z**2 / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def _window_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted mean of each window: (T, H, W) -> (T, H - 10, W - 10)."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(x, SSIM_WINDOW, axis) @ weights
    return x


def _check_pair(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"expected two uint8 arrays of one shape, got {a.dtype} {a.shape} and {b.dtype} {b.shape}")
