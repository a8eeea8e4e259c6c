"""Pictures in strips of rows: what a layer needs beside its input and its result is then a strip's.

A convolution reads a row more on either side of a strip, and finds there what it finds in the whole picture; norms take
their statistics from the whole picture. So nothing changes but the rounding of a sum whose terms a library orders by
the size of what it is given.
"""

from __future__ import annotations

LEAST_ROWS = 16
"""Of a strip, but for the last one. Thinner ones cost more than they save: each reads two rows of its neighbours, and
in a stream it keeps their frames too. Pictures that would be cut so thin have few rows, and take little memory."""


def strips(height: int, count: int, unit: int = 1) -> list[slice]:
    """Rows of each strip, from top to bottom.

    Args:
        height: of the picture, in rows.
        count: how many strips; fewer where they would have less than `LEAST_ROWS`.
        unit: rows that stay together; divides `height`.
    """
    size = max(-(-height // (count * unit)), -(-LEAST_ROWS // unit)) * unit
    return [slice(start, min(start + size, height)) for start in range(0, height, size)]
