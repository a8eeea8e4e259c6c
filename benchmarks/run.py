"""Measures Cogworks beside diffusers and writes what was found to benchmarks/results.

    python benchmarks/run.py --quick            # the short cases, a few minutes: what `make bench` runs
    python benchmarks/run.py                    # everything, about an hour on two cores
    python benchmarks/run.py --only vae --threads 1

Each kind of case runs in a process of its own and gives a file of its own, written when all its cases are done. With
one thread times are those of the process, which programs beside it do not lengthen; with more they are those on the
wall, which need a quiet machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import fresh
import machine
import torch
from cyclopts import App, Parameter, validators
from measure import KEEPING, Settings, tell
from results import RESULTS, Case, Kind, Result, now, write

KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "gpu")
ENVIRONMENT = {**KEEPING, "COGWORKS_PROMPT_CACHE": "0"}  # every prompt is new
COUNT = Parameter(validator=validators.Number(gte=1))
FOLDER = Parameter(validator=validators.Path(file_okay=False))

app = App(name="python benchmarks/run.py", help=(__doc__ or "").partition("\n")[0], help_format="plaintext")


@app.default
def run(
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    only: Annotated[list[Kind] | None, Parameter(negative=())] = None,
    threads: Annotated[int, COUNT] = 2,
    rounds: Annotated[int | None, COUNT] = None,
    compiles: bool = True,
    output: Annotated[Path, FOLDER] = RESULTS,
) -> None:
    """Measure, and print the paths of the results.

    Args:
        quick: The short cases with two rounds; tables do not use its results.
        only: One kind of case; give it several times for several.
        threads: Of torch, on both sides.
        rounds: Of every short case, A B B A each; 5 if not given.
        compiles: Also measure against compiled diffusers, which takes minutes of compiling.
        output: Folder of the results.
    """
    settings = {
        "quick": quick,
        "threads": threads,
        "rounds": rounds or (2 if quick else 5),
        "compiles": compiles and not quick,
    }
    failed = []
    for kind in only or KINDS:
        tell(f"-- {kind}")
        try:
            # What torch compiles is kept nowhere: seconds of compiling are those of a first time.
            with tempfile.TemporaryDirectory() as compiled:
                places = {**ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": compiled}
                content = fresh.call("run", "measure", {"kind": kind, **settings}, threads=threads, **places)
        except fresh.Failed as error:
            failed.append(kind)
            tell(f"{kind}: {error}; nothing is written")
            continue
        print(write(Result.model_validate(content), output))
    if failed:
        sys.exit(1)


def measure(kind: Kind, **settings: Any) -> dict[str, Any]:
    """In a process of its own: all cases of a kind, as a result in JSON's terms."""
    cases: Callable[[Settings], Iterator[Case]] = import_module(f"bench_{kind}").cases
    return collect(kind, Settings(**settings), cases).model_dump(mode="json")


def collect(kind: Kind, settings: Settings, cases: Callable[[Settings], Iterator[Case]]) -> Result:
    """The result of a run. What any case raises, this raises."""
    torch.set_num_threads(settings.threads)
    before, start = os.getloadavg()[0], time.monotonic()
    found = tuple(cases(settings))
    return Result(
        kind=kind,
        date=now(),
        quick=settings.quick,
        seconds=round(time.monotonic() - start, 1),
        threads=settings.threads,
        clock="wall" if kind == "gpu" else settings.clock,
        rounds=settings.rounds,
        load=(before, os.getloadavg()[0]),
        machine=machine.describe(gpu=kind == "gpu"),
        versions=machine.versions(),
        cases=found,
    )


if __name__ == "__main__":
    app()
