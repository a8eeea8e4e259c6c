"""Clips of pictures that are nothing of the Shapes world: what a model must have seen to animate a photograph.

A picture is made as *dead leaves*: discs and boxes of random size, tilt, colour and shading fall over each other, and
small leaves are many, which gives edges and spectra like those of photographs (Lee, Mumford and
Huang, "Occlusion models for natural images", 2001). Half of them have a grain of 1/f noise on top. The whole picture
moves as an object of the Shapes world would.

Letters: T frames, H height, W width, S side of the canvas that a clip looks at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cogworks.data.shapes import CENTRED_AT_SECONDS, DIRECTION, ORBIT_SECONDS
from cogworks.rng import derive_seed

FloatArray = NDArray[np.float32]

CANVAS = 2.5  # times the longer side of the frame: nothing that moves comes to its edge
LEAVES = (60, 200)
SMALLEST_LEAF, LARGEST_LEAF = 0.05, 0.7  # radius, of the longer side of the frame
SPEED = (0.06, 0.17)  # of the longer side, a second
GROWTH = 1.3  # how much larger a picture gets in two seconds, or how much smaller
ORBIT_RADIUS = 0.12  # of the longer side


def render_picture_clip(
    seed: int, index: int, height: int, width: int, num_frames: int, fps: float, motion: str
) -> NDArray[np.uint8]:
    """Picture number `index` of the endless list keyed by `seed`, all of it in motion.

    Args:
        motion: one of `shape_words.MOTIONS`.

    Returns:
        (T, H, W, 3) RGB in 0..255.
    """
    rng = np.random.default_rng(derive_seed("pictures", seed, index))
    longer = max(height, width)
    canvas = _dead_leaves(rng, round(CANVAS * longer), longer)
    seconds = np.arange(num_frames, dtype=np.float64) / fps - CENTRED_AT_SECONDS
    x, y, zoom = _view(rng, motion, seconds, longer)
    columns = (np.arange(width) - (width - 1) / 2)[None] / zoom[:, None] - x[:, None] + (canvas.shape[1] - 1) / 2
    rows = (np.arange(height) - (height - 1) / 2)[None] / zoom[:, None] - y[:, None] + (canvas.shape[0] - 1) / 2
    frames = [_look(canvas, row, column) for row, column in zip(rows, columns, strict=True)]
    return np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8)


def _view(
    rng: np.random.Generator, motion: str, seconds: NDArray[np.float64], longer: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """How far the picture is from the middle over time, x to the right and y down in pixels, and how much enlarged."""
    still, one = np.zeros_like(seconds), np.ones_like(seconds)
    if motion == "orbits":
        angle = rng.uniform(-np.pi, np.pi) + 2 * np.pi * seconds / ORBIT_SECONDS
        radius = ORBIT_RADIUS * longer
        return radius * np.cos(angle), radius * np.sin(angle), one
    if motion in ("grows", "shrinks"):
        share = np.clip(seconds / 2 + 0.5, 0, 1)
        return still, still, GROWTH ** (share if motion == "grows" else 1 - share)
    dx, dy = DIRECTION.get(motion, (0.0, 0.0))
    travelled = rng.uniform(*SPEED) * longer * seconds
    return dx * travelled, dy * travelled, one


def _look(canvas: FloatArray, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> FloatArray:
    """The canvas (S, S, 3) at (H,) rows and (W,) columns between its pixels, linear in both directions: (H, W, 3)."""
    above, left = rows.astype(int), columns.astype(int)
    down = (rows - above).astype(np.float32)[:, None, None]
    right = (columns - left).astype(np.float32)[None, :, None]
    upper, lower = canvas[above], canvas[above + 1]
    lines = upper + down * (lower - upper)
    return lines[:, left] + right * (lines[:, left + 1] - lines[:, left])


def _dead_leaves(rng: np.random.Generator, side: int, longer: int) -> FloatArray:
    """(S, S, 3) in 0..255."""
    canvas = np.empty((side, side, 3), np.float32)
    mood = rng.uniform(40, 215) + rng.normal(0, 40, 3)  # the colours of a picture lie round one, near or far
    spread = rng.uniform(15, 80)
    canvas[:] = _colour(rng, mood, spread)
    count = rng.integers(*LEAVES)
    # Radii by 1/r between the two ends; the large ones fall first, so that not all is covered by them.
    radii = SMALLEST_LEAF * longer * (LARGEST_LEAF / SMALLEST_LEAF) ** rng.random(count)
    for radius in np.sort(radii)[::-1]:
        _fall(canvas, rng, float(radius), mood, spread)
    if rng.random() < 0.5:
        canvas += rng.uniform(4, 30) * _grain(rng, side)[..., None] * rng.uniform(0.5, 1, 3).astype(np.float32)
    return np.clip(canvas, 0, 255)


def _fall(
    canvas: FloatArray, rng: np.random.Generator, radius: float, mood: NDArray[np.float64], spread: float
) -> None:
    """Draw one leaf into the part of the canvas that it covers."""
    side = len(canvas)
    x, y = rng.uniform(0, side, 2)
    turn, squeeze, is_box = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.random() < 0.5
    colour, shading = _colour(rng, mood, spread), rng.normal(0, 25)
    reach = radius * np.sqrt(2) + 1
    top, bottom = max(0, int(y - reach)), min(side, int(y + reach) + 2)
    left, right = max(0, int(x - reach)), min(side, int(x + reach) + 2)
    across = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
    along = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    u = (np.cos(turn) * across + np.sin(turn) * along).astype(np.float32)
    v = ((np.cos(turn) * along - np.sin(turn) * across) / squeeze).astype(np.float32)
    distance = np.maximum(np.abs(u), np.abs(v)) if is_box else np.hypot(u, v)
    alpha = np.clip(0.5 - (distance - np.float32(radius)) * np.float32(squeeze), 0, 1)[..., None]
    part = canvas[top:bottom, left:right]
    part += alpha * (colour + np.float32(shading / radius) * u[..., None] - part)


def _colour(rng: np.random.Generator, mood: NDArray[np.float64], spread: float) -> FloatArray:
    light, tint = rng.normal(0, spread), rng.normal(0, 0.6 * spread, 3)
    return np.clip(mood + light + tint, 0, 255).astype(np.float32)


def _grain(rng: np.random.Generator, side: int) -> FloatArray:
    """(S, S) noise whose amplitude falls as 1/f, of standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequency
    noise = np.fft.irfft2(spectrum, s=(side, side))
    return (noise / noise.std()).astype(np.float32)
