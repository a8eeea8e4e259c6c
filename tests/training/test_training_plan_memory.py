"""The planned memory of training against that of real processes on a CPU: it may be 15 % off.

Each case is a fresh process that takes two steps of a recipe; see helpers.training_memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogworks.pipelines.memory import is_glibc

TOLERANCE = 0.15
TESTS = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(
        not (sys.platform == "linux" and is_glibc() and os.access("/proc/self/clear_refs", os.W_OK)),
        reason="needs the peak of resident memory as Linux tells it, and glibc",
    ),
]

CASES: dict[str, dict[str, Any]] = {
    "full": {"kind": "transformer", "batch_size": 16, "average": {"decay": 0.9}},
    "lora": {"kind": "transformer", "batch_size": 16, "lora": {"rank": 16}, "data": {"size": 96, "frames": 17}},
    "vae": {"kind": "vae", "batch_size": 4, "data": {"size": 64, "frames": 9}},
}


def measure(recipe: dict[str, Any], folder: Path) -> dict[str, int]:
    complete = {
        "version": 1,
        "model": "tiny",
        "output": str(folder / "run"),
        "steps": 4,
        "threads": 1,
        "optimizer": {"learning_rate": 0.001},
        "data": {"size": 64, "frames": 17},
        **recipe,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(complete))
    ran = subprocess.run(
        [sys.executable, str(TESTS / "helpers/training_memory.py"), str(path)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_holds_what_its_plan_says(tmp_path: Path, case: str) -> None:
    found = measure(CASES[case], tmp_path)
    assert found["planned"] == pytest.approx(found["measured"], rel=TOLERANCE)
    assert not (tmp_path / "run").exists()  # a dry run leaves nothing there


@pytest.mark.slow
def test_what_the_allocator_keeps_is_part_of_it(tmp_path: Path) -> None:
    found = measure(CASES["lora"], tmp_path)
    assert found["planned"] - found["kept"] < (1 - TOLERANCE) * found["measured"]
