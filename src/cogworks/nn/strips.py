"""Pictures in strips of rows: what a layer needs beside its input and its result is then a strip's.

A convolution reads a row more on either side of a strip, and finds there what it finds in the whole picture; norms take
their statistics from the whole picture. So nothing changes but the rounding of a sum whose terms a library orders by
the size of what it is given.
"""

from __future__ import annotations


def strips(height: int, count: int, unit: int = 1) -> list[slice]:
    """Rows of each strip, from top to bottom.

    Args:
        height: of the picture, in rows.
        count: how many strips; fewer where there are not so many units.
        unit: rows that stay together; divides `height`.
    """
    units = height // unit
    size = -(-units // min(count, units)) * unit
    return [slice(start, min(start + size, height)) for start in range(0, height, size)]
