"""Memory that is given back early, and memory that runs out: how it is recognised, and what can then be saved."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

import torch

from cogworks.config.measures import STRIPS, Measures
from cogworks.errors import MemoryShortageError
from cogworks.nn.strips import strips

log = logging.getLogger(__name__)
T = TypeVar("T")

SHARED_MEMORY = ("cpu", "mps")
"""Devices whose memory is the host's."""
MIN_TILE = 64
"""Smallest side in pixels of a tile that is chosen here: in smaller ones overlaps outweigh what is saved."""
_TILE_UNIT = 16
_M_MMAP_THRESHOLD = -3  # mallopt(3); setting it also stops it from growing to 32 MB
_EARLY = 2**19
VAE_PARTS = ("encoding", "decoding")
TILES = ", or let the VAE work in tiles, which change pixels a little: --tile 256x256, or load(..., tile=(256, 256))"
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an accelerator or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def release_unused(device: torch.device) -> None:
    """Give the system back what nobody holds any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    elif is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def give_back_early() -> None:
    """Let this process give freed blocks of more than half a MB back at once, so that it holds what is alive.

    Otherwise glibc keeps them on a heap whose gaps close or do not by chance: of processes that do the same, one holds
    a third more than the other. Memory that is mapped anew costs time, 2 to 5 % of a run of a bundled model; blocks of
    more than 32 MB, as large models have, are given back at once in any case. Does nothing where the C library is
    another.
    """
    if is_glibc():
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _EARLY)


@cache
def is_glibc() -> bool:
    """Whether this process allocates by glibc."""
    return platform.libc_ver()[0] == "glibc"


Relieve = Callable[[Measures], tuple[Measures, str] | None]
"""From the measures of a run to the next ones and what they do, in words; None where there are none left."""


def with_relief(
    work: Callable[[Measures], T], measures: Measures, relieve: Relieve, device: torch.device, part: str
) -> tuple[T, Measures]:
    """Do `work`; where memory runs out do it again, with one measure more each time.

    Args:
        work: does the whole of it again when it is called again.
        measures: to begin with.
        part: what works, for messages.

    Returns:
        The result, and the measures that it was made with.

    Raises:
        MemoryShortageError: memory ran out with all measures taken.
    """
    while True:
        try:
            return work(measures), measures
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: there the traceback still holds what the work had allocated.
        gc.collect()
        release_unused(device)
        relief = relieve(measures)
        if relief is None:
            could_tile = part in VAE_PARTS and measures.tile is None
            raise MemoryShortageError(
                f"memory ran out in {part} and there is nothing left to save on {device}; ask for a smaller size or "
                f"fewer frames, or free memory{TILES if could_tile else ''}"
            )
        measures, words = relief
        log.warning("memory ran out in %s; trying again %s", part, words)
        release_unused(device)


def in_halves(measures: Measures) -> tuple[Measures, str] | None:
    """Take the halves of guidance one after the other."""
    if measures.split_guidance:
        return None
    return replace(measures, split_guidance=True), "with the halves of guidance one after the other"


def one_by_one(measures: Measures, batch: int) -> tuple[Measures, str] | None:
    """Take `batch` clips through the VAE one after the other."""
    if measures.slicing or batch == 1:
        return None
    return replace(measures, slicing=True), "one video at a time"


def in_thinner_strips(measures: Measures, height: int) -> tuple[Measures, str] | None:
    """Let the VAE work in strips of rows of pictures of `height` pixels, or in more of them if it does already."""
    if measures.tile is not None:
        height = min(height, measures.tile[0])
    for count in STRIPS:
        if len(strips(height, count)) > len(strips(height, measures.strips)):
            return replace(measures, strips=count), f"in {count} strips"
    return None


def in_smaller_tiles(measures: Measures, height: int, width: int) -> tuple[Measures, str] | None:
    """Halve the tiles, if there are any, that pictures of `height` x `width` pixels pass through the VAE in."""
    if measures.tile is None:
        return None  # they change pixels: only who asked for them has them
    before = min(measures.tile[0], height), min(measures.tile[1], width)
    tile = _half(before[0]), _half(before[1])
    return None if tile == before else (replace(measures, tile=tile), f"in tiles of {tile[1]}x{tile[0]}")


def _half(side: int) -> int:
    """Half a side, in whole units and not below the least; a smaller side stays as it is."""
    return min(side, max(MIN_TILE, math.ceil(side / 2 / _TILE_UNIT) * _TILE_UNIT))
