"""Planned memory against the memory of real processes on a CPU.

Each case is a fresh process, whose peak of resident memory is read from Linux. The planned number may be 15 % off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogworks.pipelines.planning.heap import is_glibc

TOLERANCE = 0.15
TESTS = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and is_glibc() and os.access("/proc/self/clear_refs", os.W_OK)),
    reason="needs the peak of resident memory as Linux tells it, and glibc",
)


def measure(part: str, height: int, width: int, frames: int, *budget: str, **environment: str) -> dict[str, int]:
    ran = subprocess.run(
        [sys.executable, str(TESTS / "helpers/peak_memory.py"), part, str(height), str(width), str(frames), *budget],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


# Blocks above 1 MB are given back as soon as they are freed: the process then holds what is alive.
@pytest.mark.parametrize(("part", "height", "width", "frames"), [("decode", 64, 96, 17), ("step", 192, 256, 17)])
def test_a_dry_run_counts_what_is_alive(part: str, height: int, width: int, frames: int) -> None:
    found = measure(part, height, width, frames, MALLOC_MMAP_THRESHOLD_=str(2**20))
    assert found["alive"] == pytest.approx(found["measured"], rel=TOLERANCE)


def test_a_plan_says_what_a_process_holds() -> None:
    found = measure("step", 320, 512, 17)
    assert found["alive"] < 0.75 * found["measured"]  # without the heap the plan would be wrong
    assert found["held"] == pytest.approx(found["measured"], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("height", "width", "frames", "budget"),
    [(192, 256, 1, []), (64, 96, 17, []), (160, 160, 9, ["8GB"]), (64, 64, 9, ["8GB"])],
)
def test_a_whole_run_holds_what_its_plan_says(height: int, width: int, frames: int, budget: list[str]) -> None:
    found = measure("run", height, width, frames, *budget)
    assert found["held"] == pytest.approx(found["measured"], rel=TOLERANCE)


@pytest.mark.slow
def test_the_peak_of_a_larger_run() -> None:
    found = measure("run", 384, 512, 1)
    assert found["held"] == pytest.approx(found["measured"], rel=TOLERANCE)
