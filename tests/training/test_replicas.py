"""A run on two devices, started from the command line: its processes begin, stop and fall together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.small_runs import save_small_model, small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.dist]


class Command:
    """`cogworks train` on two devices, as a process of its own."""

    def __init__(self, recipe: Path, output: Path) -> None:
        self.output = output
        arguments = [sys.executable, "-m", "cogworks", "train", str(recipe), "devices=2"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, step: int) -> None:
        while not (self.output / "checkpoints" / f"step{step:06d}.ckpt").exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def other(self) -> int:
        """The number of the second process."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = (int(number) for number in listed if b"train" in Path(f"/proc/{number}/cmdline").read_bytes())
        return found

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error, when all processes have closed both."""
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


def test_two_processes_begin_stop_and_fall_together(tmp_path: Path) -> None:
    model = save_small_model(tmp_path / "model")
    output = tmp_path / "run"
    values = small_recipe(model, output, steps=40, checkpoints={"minutes": 1e-9, "keep": 40}).model_dump(mode="json")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))

    command = Command(recipe, output)
    command.wait_for(2)
    os.kill(command.process.pid, signal.SIGTERM)  # to the first alone
    status, out, err = command.end()
    assert status == 130, err
    assert out == ""
    assert err.count("the run stops after this step") == 1
    assert err.rstrip().endswith("interrupted")

    command = Command(recipe, output)
    command.wait_for(12)
    os.kill(command.other(), signal.SIGKILL)
    status, _, err = command.end()
    assert status == 1, err
    assert "error: process 1 of 2 ended (killed by signal 9): start the run again, and it goes on from its last" in err

    command = Command(recipe, output)
    command.wait_for(22)
    command.process.kill()
    began = time.monotonic()
    assert command.end()[0] == -signal.SIGKILL  # the second one holds the pipes until it ends
    assert time.monotonic() - began < 30

    status, out, err = Command(recipe, output).end()
    assert status == 0, err
    assert out == f"{output / 'model'}\n"
