"""Outlines of the Shapes world as signed distances.

Each function takes x (..., W) and y (..., H, 1) in pixels relative to the shape's centre (y down) and its nominal
radius r, all broadcast together, and gives the distance to the outline in pixels, negative inside. Outside a polygon's
corner it is the distance to the nearest edge line, which keeps the corner sharp. `clip(0.5 - distance, 0, 1)` is the
coverage of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

REACH = 1.1  # no shape extends further than this many radii from its centre


def _circle(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    return np.sqrt(x * x + y * y) - r


def _square(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85 * r


def _triangle(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    """Equilateral, pointing up, height 1.8 r, its box centred."""
    half_height = 0.9 * r
    sides = math.sqrt(0.75) * np.abs(x) - 0.5 * (y + half_height)
    return np.maximum(sides, y - half_height)


def _diamond(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    """Half-width 0.7 r, half-height 1.05 r."""
    wide, tall = 0.7, 1.05
    return (np.abs(x) * tall + np.abs(y) * wide - wide * tall * r) / math.hypot(wide, tall)


def _ring(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    """Between 0.55 r and r."""
    return np.abs(_circle(x, y, 0.775 * r)) - 0.225 * r


def _star(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    """Five points at 1.1 r, notches at 0.42 of that, one point up, its box centred.

    Mirrors fold the plane into the tenth between the upward axis and the first notch; one edge is left.
    """
    outer, tenth = 1.1, math.pi / 5
    inner = 0.42 * outer
    up = 0.5 * outer * (1 - math.cos(tenth)) * r - y
    side = np.abs(x)
    for turn in (2 * tenth, tenth):  # mirror lines through the notches at 2 and 1 tenths either side of the axis
        normal_side, normal_up = math.cos(turn), -math.sin(turn)
        beyond = 2 * np.maximum(side * normal_side + up * normal_up, 0)
        side, up = np.abs(side - beyond * normal_side), up - beyond * normal_up
    notch_side, notch_up = inner * math.sin(tenth), inner * math.cos(tenth)
    length = math.hypot(notch_side, outer - notch_up)
    edge_side, edge_up = (outer - notch_up) / length, notch_side / length
    return side * edge_side + (up - outer * r) * edge_up


def _heart(x: FloatArray, y: FloatArray, r: FloatArray) -> FloatArray:
    """A square on its corner with a half disc on each upper side, its box centred: 2.11 r wide, 1.93 r high."""
    diagonal = 1.75 * r
    lobe = diagonal / math.sqrt(8)  # radius of the half discs: half a side
    up = 0.5 * (0.75 * diagonal + lobe) - y  # above the tip
    square = (np.abs(x) + np.abs(up - 0.5 * diagonal) - 0.5 * diagonal) * math.sqrt(0.5)
    lobes = _circle(np.abs(x) - 0.25 * diagonal, up - 0.75 * diagonal, lobe)
    return np.minimum(square, lobes)


SIGNED_DISTANCE: dict[str, Callable[[FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "ring": _ring,
    "heart": _heart,
}
