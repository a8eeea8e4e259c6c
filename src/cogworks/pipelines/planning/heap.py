"""What a process holds for the tensors that are alive, where the C library is glibc.

Its `malloc` maps large blocks one by one and gives them back at once. Blocks below a threshold, which grows to 32 MB as
larger ones are freed, lie on one heap, in the smallest gap that is large enough; what is freed there stays with the
process. With tensors of some megabytes that is half as much again as is alive; with tensors above 32 MB it is nothing.

Source: glibc's malloc/malloc.c (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in mallopt(3)). Measured against resident memory:
see tests/pipelines/test_plan_memory.py.
"""

from __future__ import annotations

import ctypes
import platform
from bisect import bisect, insort
from collections.abc import Hashable
from functools import cache

THRESHOLD = 32 * 2**20
"""Where the threshold ends up; a run gets there with its first large tensors."""
ALIGNMENT = 64
EARLY = 2 * 2**20
_M_MMAP_THRESHOLD = -3  # mallopt(3); setting it also stops it from growing
ROOM = 96
"""A gap has to be larger than a block by this: malloc looks for room to align it. So a block does not fit where one
of its size was, and the heap grows."""
GAPS = 1.18
"""Small objects between the blocks keep gaps from closing. The heaps of real processes are larger than what is reckoned
without them by so much on average, over two kinds of CPU, and scatter by a sixth from run to run."""


class Heap:
    """Where blocks would lie.

    Attributes:
        peak: most bytes that the process held for blocks.
        mapped: bytes of large blocks.
        most_mapped: most of these since it was last set.
    """

    def __init__(self) -> None:
        self.peak = self.mapped = self.most_mapped = 0
        self._top = self._end = 0  # of the heap; the end is the highest top: what was touched once stays
        self._gaps: list[tuple[int, int]] = []  # (address, size), in order, never touching
        self._blocks: dict[Hashable, tuple[int, int]] = {}  # address, or -1 for a block of its own; size

    def allocate(self, key: Hashable, size: int) -> None:
        """A block, to be released by its key."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        if size >= THRESHOLD:
            self._blocks[key] = (-1, size)
            self.mapped += size
        else:
            self._blocks[key] = (self._place(size), size)
        self.rise(0)

    def rise(self, mapped: int) -> None:
        """For a moment, `mapped` bytes more of large blocks."""
        self.most_mapped = max(self.most_mapped, self.mapped + mapped)
        self.peak = max(self.peak, self.mapped + mapped + int(self._end * GAPS))

    def release(self, key: Hashable) -> None:
        address, size = self._blocks.pop(key)
        if address < 0:
            self.mapped -= size
            return
        index = bisect(self._gaps, (address, size))
        if index < len(self._gaps) and self._gaps[index][0] == address + size:
            size += self._gaps.pop(index)[1]
        if index and sum(self._gaps[index - 1]) == address:
            address, before = self._gaps.pop(index - 1)
            size += before
        if address + size == self._top:
            self._top = address
        else:
            insort(self._gaps, (address, size))

    def _place(self, size: int) -> int:
        """Address of a new block in the smallest gap that holds it, or at the top."""
        index = min(
            (index for index, gap in enumerate(self._gaps) if gap[1] >= size + ROOM),
            key=lambda index: self._gaps[index][1],
            default=None,
        )
        if index is None:
            address, self._top = self._top, self._top + size
            self._end = max(self._end, self._top)
            return address
        address, room = self._gaps.pop(index)
        self._gaps.insert(index, (address + size, room - size))
        return address


def give_back_early() -> None:
    """Let this process give freed blocks of more than `EARLY` bytes back at once, so that it holds what is alive.

    For a run with a budget, or one that holds much: it keeps its plan to a few percent then, and decodes small
    pictures up to 40 % slower, because memory has to be mapped anew. Blocks of large ones are given back at once in any
    case. Does nothing where the C library is another.
    """
    if is_glibc():
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, EARLY)


@cache
def is_glibc() -> bool:
    """Whether this process allocates by glibc."""
    return platform.libc_ver()[0] == "glibc"
