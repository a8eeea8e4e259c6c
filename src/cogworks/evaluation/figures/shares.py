"""How often, and how much: the two kinds of figure that every report is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from cogworks.evaluation.figures.metrics import wilson_interval


@dataclass(frozen=True)
class Share:
    """`right` of `total`."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """In 0..1; 0 of nothing."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the 95 % Wilson interval."""
        return wilson_interval(self.right, self.total)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        low, high = self.interval
        return {"share": self.value, "right": self.right, "total": self.total, "low": low, "high": high}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Share:
        """What `to_json` gave. KeyError where a count is missing."""
        return cls(cast(int, values["right"]), cast(int, values["total"]))


@dataclass(frozen=True)
class Mean:
    """The mean of `count` figures, with the lowest and the highest of them."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Mean:
        """Of one figure or more.

        Raises:
            ValueError: there is none.
        """
        if not figures:
            raise ValueError("a mean needs one figure or more, got none")
        return cls(math.fsum(figures) / len(figures), min(figures), max(figures), len(figures))

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Mean:
        """What `to_json` gave. KeyError where a figure is missing."""
        mean, low, high = (cast(float, values[name]) for name in ("mean", "low", "high"))
        return cls(mean, low, high, cast(int, values["count"]))
