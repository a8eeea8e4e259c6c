"""Pictures of Shapes scenes that the renderer of this package did not make.

Pillow draws them: outlines as polygons and ellipses at eight times the size, scaled down by a Lanczos filter. Palette,
places and sizes are those of `cogworks.data.shapes`; edges, rounding and a faint ringing along the edges are Pillow's.
A model that animates only what our renderer draws shows it here.

Letters: H height, W width; r radius. Corners are in radii from the object's centre, y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from cogworks.data.shape_words import BACKGROUND_COLOURS, COLOURS
from cogworks.data.shapes import Scene, placement
from cogworks.evaluation.case import Picture

OVERSAMPLING = 8
Corners = list[tuple[float, float]]


def draw(scene: Scene, height: int = 64, width: int = 64) -> Picture:
    """The scene at t = 0.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: a size that is not positive.
    """
    if min(height, width) < 1:
        raise ValueError(f"height and width must be positive, got {height}x{width}")
    canvas = _column(scene.background, height).resize(
        (width * OVERSAMPLING, height * OVERSAMPLING), Image.Resampling.NEAREST
    )
    for item in scene.objects:
        x, y, radius = (float(value[0]) for value in placement(item, np.zeros(1), height, width))
        mask = Image.new("L", canvas.size)
        _OUTLINES[item.shape](_Pen(mask, x, y, radius))
        canvas.paste(COLOURS[item.colour], mask=mask)
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))


class _Pen:
    """Draws on a mask in the coordinates of one object."""

    def __init__(self, mask: Image.Image, x: float, y: float, radius: float) -> None:
        self._draw = ImageDraw.Draw(mask)
        self._x, self._y, self._radius = x, y, radius

    def polygon(self, corners: Corners) -> None:
        self._draw.polygon([self._place(x, y) for x, y in corners], fill=255)

    def disc(self, x: float, y: float, radius: float, *, erase: bool = False) -> None:
        box = [self._place(x - radius, y - radius), self._place(x + radius, y + radius)]
        self._draw.ellipse(box, fill=0 if erase else 255)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Pillow counts from the middle of a pixel."""
        return (
            (self._x + x * self._radius) * OVERSAMPLING - 0.5,
            (self._y + y * self._radius) * OVERSAMPLING - 0.5,
        )


@cache
def _column(background: str, height: int) -> Image.Image:
    """The colours of an oversampled background from the top down, one pixel wide. Not to be drawn on."""
    top, bottom = BACKGROUND_COLOURS[background]
    column = Image.new("RGB", (1, height * OVERSAMPLING))
    for line in range(column.height):
        row = (line + 0.5) / OVERSAMPLING - 0.5
        share = min(max(row / max(height - 1, 1), 0.0), 1.0)
        red, green, blue = (round(a + share * (b - a)) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, line), (red, green, blue))
    return column


def _circle(pen: _Pen) -> None:
    pen.disc(0, 0, 1)


def _square(pen: _Pen) -> None:
    pen.polygon([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])


def _triangle(pen: _Pen) -> None:
    foot = 1.8 / math.sqrt(3)
    pen.polygon([(0, -0.9), (foot, 0.9), (-foot, 0.9)])


def _diamond(pen: _Pen) -> None:
    pen.polygon([(0, -1.05), (0.7, 0), (0, 1.05), (-0.7, 0)])


def _ring(pen: _Pen) -> None:
    pen.disc(0, 0, 1)
    pen.disc(0, 0, 0.55, erase=True)


def _star(pen: _Pen) -> None:
    middle = 0.55 * (1 - math.cos(math.pi / 5))  # centres the box: two points of the star are its lowest
    reach = [1.1, 0.42 * 1.1]
    turns = [math.pi / 5 * corner for corner in range(10)]
    pen.polygon(
        [
            (reach[corner % 2] * math.sin(turn), middle - reach[corner % 2] * math.cos(turn))
            for corner, turn in enumerate(turns)
        ]
    )


def _heart(pen: _Pen) -> None:
    half, lobe = 0.875, 1.75 / math.sqrt(8)
    tip = 0.5 * (1.5 * half + lobe)
    pen.polygon([(0, tip), (half, tip - half), (0, tip - 2 * half), (-half, tip - half)])
    for side in (-1, 1):
        pen.disc(side * half / 2, tip - 1.5 * half, lobe)


_OUTLINES: dict[str, Callable[[_Pen], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "ring": _ring,
    "heart": _heart,
}
