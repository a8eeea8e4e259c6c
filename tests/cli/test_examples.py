"""Every program in examples/ runs and makes what it says it makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, example, tmp_path / "made"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = [Path(line.split()[0]) for line in ran.stdout.splitlines()]
    assert len(said) >= 3
    assert sorted(said) == sorted((tmp_path / "made").iterdir())
    assert all(path.stat().st_size > 0 for path in said)
