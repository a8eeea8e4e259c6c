"""Two runs in one folder would write over each other's checkpoints: the second is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cogworks.errors import RunError
from cogworks.training.run import train
from cogworks.training.safety.alone import alone_in
from helpers.small_runs import save_small_model, small_recipe

HOLD = """
import sys
from pathlib import Path
from cogworks.training.safety.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder, until it is ended."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_a_second_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    recipe = small_recipe(save_small_model(tmp_path / "model"), tmp_path / "run")
    recipe.output.mkdir()
    with hold(recipe.output) as other:
        before = sorted(recipe.output.iterdir())
        with pytest.raises(RunError, match=r"another run is at work in .*run: wait for it, or name another folder"):
            train(recipe)
        assert sorted(recipe.output.iterdir()) == before
        other.communicate()
    train(recipe)
    assert (recipe.output / "checkpoints").is_dir()


def test_a_killed_run_lets_go(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        other.kill()
    with alone_in(tmp_path):
        pass
