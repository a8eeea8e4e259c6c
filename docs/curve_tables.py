"""Tables of what a setting does, from the figures that `curves.py` wrote to benchmarks/results."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import strength
from curve_results import RESULTS, Curve, Kind, Point, Rate, curve_file, read_curve
from speed_tables import commit_words, lines_of, machine_words

from cogworks.evaluation.reports.report import ALL_RIGHT
from cogworks.evaluation.shapes.oracle import ATTRIBUTES


def table(name: str, folder: Path = RESULTS) -> list[str]:
    """The table of a curve, as "steps tiny" or "strength tiny", with what it was measured on.

    Raises:
        KeyError: there is no such kind of curve.
    """
    kind, _, model = name.partition(" ")
    kinds = {each: each for each in get_args(Kind)}
    path = curve_file(kinds[kind], model, folder)
    if not path.exists():
        return ["", f"Not measured yet: `python docs/curves.py {name}` does it."]
    curve = read_curve(path)
    head, rows = (_strength_rows if kind == "strength" else _obedience_rows)(curve)
    return ["", *lines_of(head, rows), "", f"{_measured(curve)} [All figures](../benchmarks/results/{path.name})."]


def _obedience_rows(curve: Curve) -> tuple[list[str], list[list[str]]]:
    groups = list(curve.points[0].groups)
    titles = (ALL_RIGHT, *ATTRIBUTES)
    head = ["sampler", curve.kind, *(f"{groups[0]}: {title}" if title == ALL_RIGHT else title for title in titles)]
    head += [*(f"{group}: {ALL_RIGHT}" for group in groups[1:]), "s of processor time a video"]
    rows = []
    for point in curve.points:
        first, *others = point.groups.values()
        rates = [first.shares[ALL_RIGHT], *(first.shares[name] for name in ATTRIBUTES)]
        shown = [_percent(rate, interval=place == 0) for place, rate in enumerate(rates)]
        shown += [_percent(group.shares[ALL_RIGHT]) for group in others]
        rows.append([str(point.at["sampler"]), f"{point.at[curve.kind]:g}", *shown, f"{point.cpu_seconds:.2f}"])
    return head, rows


def _strength_rows(curve: Curve) -> tuple[list[str], list[list[str]]]:
    """What was to change obeyed, and the rest kept, for each thing; the measures over all videos."""
    groups = list(curve.points[0].groups)
    head = ["strength", *(f"another {group}: obeyed / rest kept" for group in groups)]
    head += [strength.TO_SOURCE, strength.OVERLAP]
    rows = []
    for point in curve.points:
        found = [point.groups[group] for group in groups]
        pairs = [
            f"{_percent(g.shares[strength.OBEYED], interval=False)} / "
            f"{_percent(g.shares[strength.KEPT], interval=False)}"
            for g in found
        ]
        rows.append(
            [
                f"{point.at['strength']:g}",
                *pairs,
                f"{_mean(point, strength.TO_SOURCE):.1f} dB",
                f"{_mean(point, strength.OVERLAP):.2f}",
            ]
        )
    return head, rows


def _mean(point: Point, name: str) -> float:
    """Over groups, which are of one size."""
    return sum(group.means[name] for group in point.groups.values()) / len(point.groups)


def _percent(rate: Rate, *, interval: bool = True) -> str:
    shown = f"{100 * rate.value:.0f} %"
    return f"{shown} ({100 * rate.low:.0f} to {100 * rate.high:.0f})" if interval else shown


def _measured(curve: Curve) -> str:
    """How many cases, which command, when and where."""
    totals = {name: next(iter(group.shares.values())).total for name, group in curve.points[0].groups.items()}
    cases = " and ".join(f"{total} prompts of {name}" for name, total in totals.items())
    intervals = "in brackets and as bands"
    if curve.kind == "strength":
        cases, intervals = f"{curve.samples} sources", "as bands"
    threads = "1 thread" if curve.threads == 1 else f"{curve.threads} threads"
    return (
        f"{cases} at each setting; 95 % Wilson intervals {intervals}. `{curve.command}`, {curve.date:%Y-%m-%d}: "
        f"{machine_words(curve.machine)}, {threads}; torch {curve.versions.torch}, {commit_words(curve.versions)}."
    )
