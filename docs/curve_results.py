"""What a curve of the documentation was drawn from: figures at each setting, and where they were measured.

A file holds one curve of one model. It is written whole after every point, so that a run that was stopped goes on.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from results import RESULTS, Machine, Versions

from cogworks.evaluation.figures.shares import Share
from cogworks.evaluation.reports.report import GroupReport
from cogworks.weights.storage import replacing

Kind = Literal["steps", "guidance", "strength"]
Place = dict[str, int | float | str]
"""The settings of a point, by name."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Record):
    """`right` of `total`, with the bounds of the 95 % Wilson interval, in 0..1."""

    right: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0


class Group(_Record):
    """What came of cases that are counted together: shares of them, and means over them."""

    shares: dict[str, Rate]
    means: dict[str, float] = {}

    @classmethod
    def of(cls, report: GroupReport) -> Self:
        """The figures of a report, without its confusions."""
        return cls(
            shares={name: rate_of(share) for name, share in report.shares.items()},
            means={name: mean.mean for name, mean in report.measures.items()},
        )


class Point(_Record):
    """One setting.

    Attributes:
        at: the setting.
        groups: what came of each group of cases.
        seconds: on the wall for a video, the reading of it included.
        cpu_seconds: of processor time for the same; other programs on the machine change it less.
    """

    at: Place
    groups: dict[str, Group]
    seconds: float
    cpu_seconds: float


class Curve(_Record):
    """A file.

    Attributes:
        command: makes it again.
        model: name of the variant.
        weights: SHA-256, in hex, over the files of the model.
        samples: cases of each group at each point, at most.
        size: height, width and frames of every video.
        threads: of torch.
        date: of the last point.
    """

    format: Literal[1] = 1
    kind: Kind
    command: str
    model: str
    weights: str
    samples: int
    size: tuple[int, int, int]
    threads: int
    machine: Machine
    versions: Versions
    date: datetime
    points: tuple[Point, ...] = ()

    def goes_on_from(self, other: Curve) -> bool:
        """Whether the points of another curve may stand beside new ones of this one."""
        same = ("format", "kind", "model", "weights", "samples", "size", "threads")
        return self.machine.cpu == other.machine.cpu and all(
            getattr(self, name) == getattr(other, name) for name in same
        )

    def point(self, at: Place) -> Point | None:
        return next((point for point in self.points if point.at == at), None)


def rate_of(share: Share) -> Rate:
    low, high = share.interval
    return Rate(right=share.right, total=share.total, low=low, high=high)


def curve_file(kind: Kind, model: str, folder: Path = RESULTS) -> Path:
    """The place of a curve's figures."""
    return folder / f"curve-{kind}-{model}.json"


def read_curve(path: Path) -> Curve:
    """Raises ValueError if the file is no curve, OSError if it is not there."""
    return Curve.model_validate_json(path.read_text(encoding="utf-8"))


def write_curve(curve: Curve, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(curve.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
