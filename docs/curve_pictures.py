"""Draws the curves that `curves.py` measured. It needs matplotlib, the extra `eval`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import strength
from curve_results import Curve, Place, Point, Rate

from cogworks.evaluation.reports.report import ALL_RIGHT
from cogworks.evaluation.shapes.oracle import ATTRIBUTES
from cogworks.weights.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
DASHES = ("-", "--")  # of groups


def draw(curve: Curve, path: Path) -> Path:
    """Write the picture of a curve, as PNG."""
    from matplotlib import pyplot

    figure = _strength(curve) if curve.kind == "strength" else _obedience(curve)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    pyplot.close(figure)
    return path


def _obedience(curve: Curve) -> Figure:
    """A panel for each share, a line for each sampler and group; and one for the time."""
    from matplotlib import pyplot

    titles = (ALL_RIGHT, *ATTRIBUTES)
    figure, panels = pyplot.subplots(2, 3, figsize=(10, 5.4), layout="constrained")
    *shares, last = panels.flat
    lines = list(dict.fromkeys(str(point.at["sampler"]) for point in curve.points))
    for colour, sampler in enumerate(lines):
        points = [point for point in curve.points if point.at["sampler"] == sampler]
        for dash, group in zip(DASHES, curve.points[0].groups, strict=False):
            for axes, title in zip(shares, titles, strict=True):
                rates = [point.groups[group].shares[title] for point in points]
                _share_line(axes, _along(curve.kind, points), rates, f"{sampler}, {group}", colour, dash)
        last.plot(_along(curve.kind, points), [p.cpu_seconds for p in points], "o-", ms=3, color=f"C{colour}")
    for axes, title in zip(shares, titles, strict=True):
        _finish(axes, curve, title)
        axes.set_ylabel("obeyed, %")
        axes.set_ylim(top=101)
    _finish(last, curve, "processor time")
    last.set_ylabel("s a video")
    last.set_ylim(bottom=0)
    figure.legend(*shares[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=4)
    return figure


def _strength(curve: Curve) -> Figure:
    """What is obeyed, what is kept, and how near the video stays, a line for each thing that was to change."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    obeyed, kept, near, overlap = panels.flat
    along = _along(curve.kind, curve.points)
    for colour, group in enumerate(curve.points[0].groups):
        groups = [point.groups[group] for point in curve.points]
        for axes, title in ((obeyed, strength.OBEYED), (kept, strength.KEPT)):
            _share_line(axes, along, [found.shares[title] for found in groups], f"another {group}", colour, "-")
        for axes, title in ((near, strength.TO_SOURCE), (overlap, strength.OVERLAP)):
            axes.plot(along, [found.means[title] for found in groups], "o-", ms=3, color=f"C{colour}")
    for axes, title, label in (
        (obeyed, "shows what was to change", "videos, %"),
        (kept, "shows all else as it was", "videos, %"),
        (near, strength.TO_SOURCE, "dB"),
        (overlap, "the object lies where it lay in the source", "intersection over union"),
    ):
        _finish(axes, curve, title)
        axes.set_ylabel(label)
    for axes in (obeyed, kept):
        axes.set_ylim(-3, 103)
    overlap.set_ylim(0, 1)
    obeyed.legend(fontsize="small")
    return figure


def _share_line(axes: Axes, along: list[float], rates: list[Rate], label: str, colour: int, dash: str) -> None:
    """Shares in percent, with their intervals as a band."""
    low, middle, high = ([100 * value for value in values] for values in zip(*map(_bounds, rates), strict=True))
    axes.plot(along, middle, f"o{dash}", ms=3, color=f"C{colour}", label=label)
    axes.fill_between(along, low, high, color=f"C{colour}", alpha=0.1, linewidth=0)


def _bounds(rate: Rate) -> tuple[float, float, float]:
    return rate.low, rate.value, rate.high


def _along(name: str, points: Iterable[Point]) -> list[float]:
    return [float(point.at[name]) for point in points]


def _finish(axes: Axes, curve: Curve, title: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(_constant(curve))
    axes.grid(alpha=0.3)
    if curve.kind == "steps":
        axes.set_xscale("log")
        ticks = sorted({int(point.at["steps"]) for point in curve.points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()


def _constant(curve: Curve) -> str:
    """The name of the axis, with the settings that are the same at all points."""
    same: Place = {
        name: value
        for name, value in curve.points[0].at.items()
        if all(point.at[name] == value for point in curve.points) and name != curve.kind
    }
    return ", ".join(
        [curve.kind, *(f"{name} {value:g}" if not isinstance(value, str) else value for name, value in same.items())]
    )
