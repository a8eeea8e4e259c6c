"""Sixel: the picture format of DEC terminals.

A picture is drawn in bands of six rows. For each color of a band, one character a column says in its six bits which of
the rows have that color; `!n` repeats the next character, `$` returns to the band's left edge, `-` begins the next.
Source: VT330/VT340 Programmer Reference Manual, volume 2, chapter 14.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

COLORS = 256  # the most that every terminal with sixels has registers for
BAND = 6  # rows

_CHARACTERS = [chr(63 + bits) for bits in range(1 << BAND)]  # "?" is no row, "~" all six
_PALETTE_PIXELS = 2**14  # enough to choose colors from; choosing from all of 720x480 takes a second
_WORTH_REPEATING = 4  # columns: "!4x" is no longer than "xxxx"


def encode_sixel(frame: NDArray[np.uint8]) -> str:
    """A frame (H, W, 3) as one control sequence that draws it at the cursor, in the 256 colors that suit it best."""
    from PIL import Image

    height, width = frame.shape[:2]
    step = math.ceil(math.sqrt(height * width / _PALETTE_PIXELS))
    sample = Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).quantize(COLORS)
    picture = Image.fromarray(frame).quantize(COLORS, palette=sample, dither=Image.Dither.NONE)
    indices = np.asarray(picture)
    palette = np.asarray(picture.getpalette()).reshape(-1, 3)
    registers = [
        f"#{color};2;" + ";".join(str(round(level * 100 / 255)) for level in palette[color].tolist())
        for color in np.unique(indices).tolist()
    ]
    bands = [_band(indices[top : top + BAND]) for top in range(0, height, BAND)]
    return f'\x1bP0;1;0q"1;1;{width};{height}' + "".join(registers) + "-".join(bands) + "\x1b\\"


def _band(indices: NDArray[np.uint8]) -> str:
    """Up to six rows of color numbers, (rows, W)."""
    width = indices.shape[1]
    bits = np.zeros((COLORS, width), np.uint8)  # which rows have a color, for each color and column
    for row, row_colors in enumerate(indices):
        bits[row_colors, np.arange(width)] |= 1 << row
    colors = np.unique(indices)
    bits = bits[colors]
    changes = np.ones(bits.shape, bool)
    changes[:, 1:] = bits[:, 1:] != bits[:, :-1]
    starts = np.flatnonzero(changes)  # of the runs of equal characters, one color after the other
    counts = np.diff(starts, append=bits.size)
    text = []
    for start, count, value in zip(starts.tolist(), counts.tolist(), bits.ravel()[starts].tolist(), strict=True):
        if start % width == 0:
            text.append(f"{'$' if start else ''}#{colors[start // width]}")
        character = _CHARACTERS[value]
        text.append(f"!{count}{character}" if count >= _WORTH_REPEATING else character * count)
    return "".join(text)
