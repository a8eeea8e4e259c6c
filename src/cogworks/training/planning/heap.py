"""What a training process holds for the tensors that are alive, where the C library is glibc.

Its `malloc` maps large blocks one by one and gives them back at once. Blocks below a threshold, which grows to 32 MB as
larger ones are freed, lie on one heap, in the smallest gap that is large enough; what is freed there stays with the
process. A run that generates has memory given back early (`pipelines.memory.give_back_early`), and holds what is alive;
for training that would cost more time than memory is worth.

Source: glibc's malloc/malloc.c (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in mallopt(3)). Measured against resident memory:
see tests/training/test_training_plan_memory.py.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Hashable

THRESHOLD = 32 * 2**20
"""Where the threshold ends up; a run gets there with its first large tensors."""
ALIGNMENT = 64
ROOM = 96
"""A gap has to be larger than a block by this: malloc looks for room to align it. So a block does not fit where one
of its size was, and the heap grows."""
GAPS = 1.12
"""Small objects between the blocks keep gaps from closing. The heaps of real processes are larger than what is reckoned
without them by so much on average, over two kinds of CPU, and scatter by a sixth from run to run."""


class Heap:
    """Where blocks would lie.

    Attributes:
        peak: most bytes that the process held for blocks.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._mapped = 0  # bytes of large blocks
        self._top = self._end = 0  # of the heap; the end is the highest top: what was touched once stays
        self._gaps: list[tuple[int, int]] = []  # (address, size), in order, never touching
        self._blocks: dict[Hashable, tuple[int, int]] = {}  # address, or -1 for a block of its own; size

    def allocate(self, key: Hashable, size: int) -> None:
        """A block, to be released by its key."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        if size >= THRESHOLD:
            self._blocks[key] = (-1, size)
            self._mapped += size
        else:
            self._blocks[key] = (self._place(size), size)
        self.peak = max(self.peak, self._mapped + int(self._end * GAPS))

    def release(self, key: Hashable) -> None:
        address, size = self._blocks.pop(key)
        if address < 0:
            self._mapped -= size
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
