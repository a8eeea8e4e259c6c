"""The model of glibc's heap. Whole plans against processes: test_training_plan_memory.py."""

from __future__ import annotations

from cogworks.training.planning.heap import GAPS, THRESHOLD, Heap


def test_a_heap_keeps_what_was_freed_and_gives_large_blocks_back() -> None:
    heap = Heap()
    for key in "abc":
        heap.allocate(key, 2**20)
    heap.release("a")
    heap.allocate("again", 2**20)  # malloc wants more room than the block takes
    assert heap.peak == int(4 * 2**20 * GAPS)
    heap.release("b")  # one gap of 2 MB
    heap.allocate("d", 2**20)
    assert heap.peak == int(4 * 2**20 * GAPS)
    heap.allocate("large", THRESHOLD)
    heap.release("large")
    heap.allocate("large again", THRESHOLD)
    assert heap.peak == THRESHOLD + int(4 * 2**20 * GAPS)
    heap.allocate("e", 2**21)
    assert heap.peak == THRESHOLD + int(6 * 2**20 * GAPS)
