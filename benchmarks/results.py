"""Results of benchmarks: what one says, how a file of them is written, and which file is the newest.

A file holds the cases of one kind, measured in one run on one machine. It is written whole or not at all.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cogworks.weights.storage import replacing

RESULTS = Path(__file__).parent / "results"

Kind = Literal["transformer", "vae", "pipeline", "startup", "dtype", "training", "int8", "gpu"]
Unit = Literal["s", "CPU s", "B", "count", "error"]
Figure = Literal["theirs / ours", "ours / theirs", "ours"]
Amount = Annotated[float, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mark(_Record):
    """What a figure has to reach. Exactly one bound is given; `aim` is what would be better still."""

    at_least: Amount | None = None
    at_most: Amount | None = None
    aim: Amount | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a mark is at_least or at_most")
        return self

    def met_by(self, figure: float) -> bool:
        return figure >= self.at_least if self.at_least is not None else figure <= (self.at_most or 0.0)


class Series(_Record):
    """What was measured of one side.

    Attributes:
        values: all of it, in the order of measuring.
    """

    median: Amount
    lowest: Amount
    values: tuple[Amount, ...]


class Ratio(_Record):
    """The figure that a mark is about.

    Attributes:
        median, low, high: over the rounds.
        of_lowest: the ratio of the lowest values of both sides.
    """

    median: Amount
    low: Amount
    high: Amount
    of_lowest: Amount


class Case(_Record):
    """One comparison.

    Attributes:
        name: of the case among those of its kind.
        what: the same for people.
        rival: what stands against ours.
        unit: of both series: seconds, seconds of processor time, bytes, a count, a largest difference.
        figure: which way the ratio goes; "ours" alone where there is no rival.
        allocator: what memory was taken from, on both sides.
        shapes: of the inputs, by name.
        seed: of weights and inputs.
        difference: the largest between the outputs of both sides, which was looked at first.
        tolerance: what it may be.
        largest: the largest value of an output, to read `difference` beside.
        met: whether the mark is.
        notes: anything else that was measured.
    """

    name: str
    what: str
    rival: str
    unit: Unit
    figure: Figure
    dtype: str
    allocator: str
    shapes: dict[str, tuple[int, ...]]
    seed: int
    ours: Series
    theirs: Series | None = None
    ratio: Ratio
    difference: Amount | None = None
    tolerance: Amount | None = None
    largest: Amount | None = None
    mark: Mark | None = None
    met: bool | None = None
    notes: dict[str, float | str] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.figure == "ours") != (self.theirs is None):
            raise ValueError(f"{self.name}: a ratio has two sides, {self.figure!r} has not")
        if self.met != (None if self.mark is None else self.mark.met_by(self.ratio.median)):
            raise ValueError(f"{self.name}: met is {self.met}, but that is not what mark and ratio say")
        if self.difference is not None and self.difference > (self.tolerance or 0.0):
            raise ValueError(f"{self.name}: outputs differ by {self.difference}, more than {self.tolerance}")
        return self


class Machine(_Record):
    """Where it was measured.

    Attributes:
        flags: of the CPU, those that matter for speed.
        cores: physical ones.
        memory: bytes.
        gpu: name, compute capability, memory and driver; None where none took part.
    """

    cpu: str
    flags: dict[str, bool]
    cores: int
    memory: int
    gpu: str | None = None


class Versions(_Record):
    """Of the programs; `changed` says whether the working tree differed from `commit`."""

    python: str
    torch: str
    diffusers: str
    cogworks: str
    commit: str
    changed: bool


class Result(_Record):
    """A file.

    Attributes:
        quick: whether it has few rounds and the short cases alone; tables leave it out.
        threads: of both sides.
        clock: of times in seconds: that of the process, or that on the wall.
        load: average of the last minute, before and after.
    """

    format: Literal[1] = 1
    kind: Kind
    date: datetime
    quick: bool
    seconds: Amount
    threads: int
    clock: Literal["process", "wall"]
    rounds: int
    load: tuple[Amount, Amount]
    machine: Machine
    versions: Versions
    cases: tuple[Case, ...] = Field(min_length=1)

    def case(self, name: str) -> Case:
        return next(case for case in self.cases if case.name == name)


def file_name(result: Result) -> str:
    """Kind, date and machine, of CPUs with their vector units: speed-vae-2026-11-21-amd-epyc-2-cores-avx2.json."""
    device, _, rest = (result.machine.gpu or result.machine.cpu).partition(",")
    if result.machine.gpu is None:
        device += rest
    words = re.findall(r"[a-z0-9]+", device.lower().replace("(r)", "").replace("(tm)", ""))
    machine = "-".join(words if len(words) <= 5 else [*words[:4], words[-1]])
    return f"{'quick' if result.quick else 'speed'}-{result.kind}-{result.date:%Y-%m-%d}-{machine}.json"


def write(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result under its name. One of the same day, kind and machine is replaced."""
    path = folder / file_name(result)
    with replacing(path) as temporary:
        temporary.write_text(result.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Result:
    """Raises ValueError if the file is not a result."""
    return Result.model_validate_json(path.read_text(encoding="utf-8"))


def newest(kind: Kind, folder: Path = RESULTS) -> Result | None:
    """Of a kind, the full result that was measured last; None where there is none."""
    return next(iter(newest_of_machines(kind, folder)), None)


def newest_of_machines(kind: Kind, folder: Path = RESULTS) -> list[Result]:
    """Of a kind, the full result that was measured last on each machine; the newest first."""
    found = sorted(map(read, folder.glob(f"speed-{kind}-*.json")), key=lambda result: result.date)
    last = {(result.machine.gpu, result.machine.cpu): result for result in found}
    return sorted(last.values(), key=lambda result: result.date, reverse=True)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
