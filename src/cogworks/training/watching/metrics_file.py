"""The numbers of a run in one `metrics.csv`, which every leg of the run goes on with."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from cogworks.weights.storage import replacing

METRICS = "metrics.csv"


class MetricsFile(Logger):
    """A logger of Lightning that only ever adds rows.

    A row has the step it was logged at and what was logged then; the other cells are empty. A run that was set back,
    or that goes on from a checkpoint, logs some steps again: of two rows with one step the later one is what counts.
    Rows are written when they come, so that a run that is killed has lost none.

    Args:
        folder: of the run. Nothing is written there before the first row.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / METRICS
        self._columns: list[str] | None = None  # None until the file was looked at

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: a run's recipe is a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: by name; Lightning's `epoch` is left out, because a run has one.
            step: of the run, from 0.
        """
        row = {"step": "" if step is None else str(step)}
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        row |= {name: f"{value:.8g}" for name, value in values.items()}
        if self._columns is None:
            self._columns = _repair(self.path)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns = [*self._columns, *new]
            _rewrite(self.path, self._columns)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(row)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, without empty cells; the earlier of two with one step is completed by the later.

    Raises:
        OSError: it cannot be read.
    """
    rows: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["step"], {}).update({name: float(cell) for name, cell in row.items() if cell})
    return list(rows.values())


def _repair(path: Path) -> list[str]:
    """The columns that there are, after dropping a last line that was cut off when a run was killed."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with replacing(path) as temporary:
            temporary.write_bytes(whole)
    return next(csv.reader(whole.decode("utf-8").splitlines()), [])


def _rewrite(path: Path, columns: list[str]) -> None:
    """The same rows under more columns, whole or not at all."""
    rows: list[dict[str, str]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
