"""Tables of speed and memory beside diffusers, from the newest results in benchmarks/results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from results import RESULTS, Case, Kind, Machine, Result, Versions, file_name, newest_of_machines

SUMMARY = "summary"  # of README.md
_IN_SUMMARY: dict[str, tuple[str, ...]] = {  # cases of each kind, good or bad
    "pipeline": ("tiny-32", "tiny-226"),
    "transformer": ("tiny-32-step", "block-2b-1"),
    "vae": ("tiny-decode", "tiny-encode", "full-decode-48", "full-decode-80", "full-peak", "full-streamed"),
    "startup": ("load-tiny", "generate-tiny"),
    "dtype": ("bf16-time",),
    "training": ("step-tiny", "step-2b-blocks", "peak-2b-blocks"),
}
_TITLES = ("what", "beside", "its figure", "Cogworks", "ratio", "goal")
_VERBS = {"theirs / ours": "{:.2f}x as fast", "ours / theirs": "{:.2f} of it"}


def table(name: str, folder: Path = RESULTS) -> list[str]:
    """The tables of a kind of results, one for each machine, or the summary of all kinds. Quick results do not count.

    Raises:
        KeyError: there is no such kind.
    """
    if name == SUMMARY:
        return _summary([result for kind in get_args(Kind) for result in newest_of_machines(kind, folder)])
    if name not in get_args(Kind):
        raise KeyError(f"no kind of result is named {name!r}; there are {', '.join(get_args(Kind))}")
    results = newest_of_machines(name, folder)
    if not results:
        return ["", f"Not measured yet: `python benchmarks/run.py --only {name}` does it."]
    return [line for result in results for line in _of_result(result)]


def _of_result(result: Result) -> list[str]:
    notes = any(case.notes for case in result.cases)
    head = [*_TITLES, "largest difference", *(["besides"] if notes else [])]
    rows = [[*_row(case), _difference(case), *([_notes(case)] if notes else [])] for case in result.cases]
    return [
        "",
        *lines_of(head, rows),
        "",
        f"{_measured(result)} [All figures](../benchmarks/results/{file_name(result)}).",
    ]


def _summary(found: list[Result]) -> list[str]:
    """A row for each case, with a column for each machine."""
    if not found:
        return ["", "Not measured yet: `python benchmarks/run.py` does it."]
    machines = list(dict.fromkeys(_device(result.machine) for result in found))
    rows: dict[tuple[str, str], list[str]] = {}
    for result in found:
        for case in result.cases:
            if case.name in _IN_SUMMARY.get(result.kind, ()):
                row = rows.setdefault((result.kind, case.name), [case.what, case.rival, *[""] * len(machines)])
                row[2 + machines.index(_device(result.machine))] = _sides(case)
    # One sentence for all results that were measured alike.
    measured = dict.fromkeys(_measured(result) for result in found)
    return ["", *lines_of(["what", "beside", *machines], list(rows.values())), "", *measured]


def _device(machine: Machine) -> str:
    return machine.gpu or machine.cpu


def _sides(case: Case) -> str:
    """Both figures and their ratio, in a cell."""
    ours = _amount(case.ours.median, case.unit)
    if case.theirs is None:
        return f"{ours} ({_ratio(case)})" if _ratio(case) else ours
    return f"{_ratio(case)}: {ours} for {_amount(case.theirs.median, case.unit)}"


def lines_of(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def machine_words(machine: Machine) -> str:
    """What a machine is, with the units of its CPU that matter."""
    has = [name for name, there in machine.flags.items() if there]
    lacks = [name for name, there in machine.flags.items() if not there]
    flags = ", ".join([*has, *(f"no {name}" for name in lacks)])
    return f"{machine.gpu}; {machine.cpu}" if machine.gpu else f"{machine.cpu} ({flags})"


def commit_words(versions: Versions) -> str:
    """What was measured."""
    return f"commit {versions.commit[:9]}{', and changes' if versions.changed else ''}"


def _row(case: Case) -> list[str]:
    theirs = "" if case.theirs is None else _amount(case.theirs.median, case.unit)
    return [case.what, case.rival, theirs, _amount(case.ours.median, case.unit), _ratio(case), _goal(case)]


def _amount(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    if unit == "count":
        return f"{value:.0f}"
    if unit == "error":
        return f"{value:.2g}"
    time = f"{value:.2f} s" if value >= 1 else f"{value * 1000:.{0 if value >= 0.1 else 1}f} ms"
    return f"{time} of CPU" if unit == "CPU s" else time


def _ratio(case: Case) -> str:
    if case.figure == "ours":
        several = case.ratio.low != case.ratio.high
        low, high = (_amount(value, case.unit) for value in (case.ratio.low, case.ratio.high))
        return f"{low} to {high}" if several else ""
    shown = _VERBS[case.figure].format(case.ratio.median)
    several = case.ratio.low != case.ratio.high
    return f"{shown} ({case.ratio.low:.2f} to {case.ratio.high:.2f})" if several else shown


def _goal(case: Case) -> str:
    if case.mark is None:
        return ""
    unit = f" {case.unit}" if case.figure == "ours" and case.unit != "count" else ""
    least = case.mark.at_least is not None
    bound = f"at least {case.mark.at_least:g}" if least else f"at most {case.mark.at_most:g}"
    return f"{bound}{unit}: {'met' if case.met else '**not met**'}"


def _difference(case: Case) -> str:
    if case.difference is None:
        return ""
    return f"{case.difference:.1e} of {case.largest:.2g}"


def _notes(case: Case) -> str:
    return "; ".join(
        f"{name}: {value if isinstance(value, str) else format(value, '.4g')}" for name, value in case.notes.items()
    )


def _measured(result: Result) -> str:
    """When, on what, with what."""
    versions = result.versions
    clock = "time of the process" if result.clock == "process" else "time on the wall"
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return (
        f"Measured on {result.date:%Y-%m-%d}: {machine_words(result.machine)}, {threads}, {clock}, "
        f"{result.rounds} rounds; torch {versions.torch}, diffusers {versions.diffusers}, {commit_words(versions)}."
    )
