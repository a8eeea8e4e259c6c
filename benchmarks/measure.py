"""Measuring two sides beside each other: equal outputs first, then time in alternation; peak memory of a process.

Ours is A, theirs B. A round is A B B A, so that a machine that grows slower or faster by the same amount from call to
call changes neither more than the other; the ratio of a round is what both calls of a side took together.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from results import Case, Figure, Mark, Ratio, Series, Unit
from torch import Tensor

TOLERANCE = 1e-4  # float32 outputs, of a network or of a whole pipeline
WARM_UPS = (
    1  # beside the call whose output is compared: oneDNN prepares primitives, MKL chooses kernels, the heap grows
)

Clock = Literal["process", "wall"]
Call = Callable[[], Any]


class Unequal(Exception):  # noqa: N818
    """The two sides do not compute the same."""


@dataclass(frozen=True)
class Settings:
    """How a run measures.

    Attributes:
        rounds: for short cases; long ones take `few`.
        compiles: whether rivals are compiled, which takes minutes.
    """

    quick: bool = False
    threads: int = 1
    rounds: int = 5
    compiles: bool = True
    seed: int = 0

    @property
    def few(self) -> int:
        return min(self.rounds, 3)

    @property
    def clock(self) -> Clock:
        """One thread is measured by the time of the process, which other programs do not lengthen."""
        return "process" if self.threads == 1 else "wall"


@dataclass(frozen=True)
class Equality:
    """How far two outputs are apart: the largest difference, the largest value, and what was allowed."""

    difference: float
    largest: float
    tolerance: float


@dataclass(frozen=True)
class Times:
    """Seconds of the calls of both sides, in order."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]


def check_equal(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> Equality:
    """Raises Unequal if shapes differ, or a value by more than `tolerance`, or one is no number."""
    if ours.shape != theirs.shape:
        raise Unequal(f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    difference = (ours.double() - theirs.double()).abs().max().item()
    largest = theirs.double().abs().max().item()
    if not difference <= tolerance:
        raise Unequal(f"outputs differ by {difference:.2g}, more than {tolerance:.2g}; the largest is {largest:.3g}")
    return Equality(difference, largest, tolerance)


def check_near(ours: Tensor, theirs: Tensor, tolerance: float) -> Equality:
    """For dtypes that round each value: the root mean square of the difference, relative to that of theirs.

    Raises Unequal as `check_equal` does.
    """
    if ours.shape != theirs.shape:
        raise Unequal(f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    size = theirs.float().square().mean().sqrt().item()
    difference = (ours.float() - theirs.float()).square().mean().sqrt().item() / size
    if not difference <= tolerance:
        raise Unequal(f"outputs differ by {difference:.2g} of their size, more than {tolerance:.2g}")
    return Equality(difference, theirs.float().abs().max().item(), tolerance)


def alternate(
    ours: Call, theirs: Call, *, rounds: int, clock: Clock, warm_ups: int = WARM_UPS, device: str = "cpu"
) -> Times:
    """Times of both sides, `2 * rounds` each, in the order A B B A."""
    for _ in range(warm_ups):
        theirs()
        ours()
    taken: dict[Call, list[float]] = {ours: [], theirs: []}
    gc.collect()
    for _ in range(rounds):
        for side in (ours, theirs, theirs, ours):
            taken[side].append(seconds_of(side, clock, device))
    return Times(tuple(taken[ours]), tuple(taken[theirs]))


def seconds_of(call: Call, clock: Clock, device: str = "cpu") -> float:
    """What one call takes. On a GPU, until it has finished."""
    now = time.process_time if clock == "process" else time.perf_counter
    _finish(device)
    start = now()
    call()
    _finish(device)
    return now() - start


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def series(values: Sequence[float]) -> Series:
    return Series(median=statistics.median(values), lowest=min(values), values=tuple(values))


def ratio_of(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Of two sides measured by `alternate`: each round's ratio is that of its two calls together."""
    assert len(over) == len(under)
    size = 2 if len(over) % 2 == 0 else 1
    rounds = [sum(over[at : at + size]) / sum(under[at : at + size]) for at in range(0, len(over), size)]
    return Ratio(median=statistics.median(rounds), low=min(rounds), high=max(rounds), of_lowest=min(over) / min(under))


def make_case(
    name: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float] | None = None,
    *,
    unit: Unit = "s",
    figure: Figure = "theirs / ours",
    rival: str = "diffusers",
    mark: Mark | None = None,
    equality: Equality | None = None,
    allocator: str | None = None,
    dtype: str = "float32",
    shapes: dict[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    notes: dict[str, float | str] | None = None,
) -> Case:
    """A case from what was measured; ratio, and whether the mark is met, are worked out."""
    if theirs is None:
        ratio = _alone(ours)
    else:
        ratio = ratio_of(theirs, ours) if figure == "theirs / ours" else ratio_of(ours, theirs)
    made = Case(
        name=name,
        what=what,
        rival=rival,
        unit=unit,
        figure=figure,
        dtype=dtype,
        allocator=allocator or allocator_here(),
        shapes=shapes or {},
        seed=seed,
        ours=series(ours),
        theirs=None if theirs is None else series(theirs),
        ratio=ratio,
        difference=None if equality is None else equality.difference,
        tolerance=None if equality is None else equality.tolerance,
        largest=None if equality is None else equality.largest,
        mark=mark,
        met=None if mark is None else mark.met_by(ratio.median),
        notes=notes or {},
    )
    tell(line_of(made))
    return made


def _alone(values: Sequence[float]) -> Ratio:
    return Ratio(median=statistics.median(values), low=min(values), high=max(values), of_lowest=min(values))


def line_of(case: Case) -> str:
    """A case in one line, for the terminal."""
    sides = f"ours {case.ours.median:.4g}"
    if case.theirs is not None:
        sides = f"{case.rival} {case.theirs.median:.4g}, {sides}"
    if case.mark is None:
        mark = ""
    else:
        bound = f">= {case.mark.at_least:g}" if case.mark.at_least is not None else f"<= {case.mark.at_most:g}"
        mark = f"; {bound} {'met' if case.met else 'NOT MET'}"
    figure = "" if case.figure == "ours" else f": {case.figure} {case.ratio.median:.3f}"
    spread = f" ({case.ratio.low:.3f} to {case.ratio.high:.3f})"
    return f"{case.what}: {sides} {case.unit}{figure}{spread}{mark}"


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


# ---- memory


def resident(line: Literal["VmHWM", "VmRSS"]) -> int:
    """Bytes of this process in memory: the most it had since `settle`, or now. Linux."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{line}:")[1].split()[0]) * 1024


def settle() -> int:
    """Begin to measure a peak: give back what is free, reset the high-water mark; returns what is held."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def peak_of(call: Call, warm: Call) -> int:
    """Bytes that `call` needs above what is held before it.

    Args:
        warm: the same on the smallest input, so that code and constants are loaded.
    """
    warm()
    held = settle()
    call()
    return resident("VmHWM") - held


# ---- memory allocation

KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""glibc keeps what was freed for the next call. Large temporaries are mapped anew for each call otherwise, which takes
diffusers a quarter of its time in a small VAE and us little: both sides get it, to the advantage of the rival."""


def allocator_here() -> str:
    """How this process gets its memory, for results."""
    import os

    kept = all(os.environ.get(name) == value for name, value in KEEPING.items())
    return "glibc, keeps freed memory (" + " ".join(f"{k}={v}" for k, v in KEEPING.items()) + ")" if kept else "default"
