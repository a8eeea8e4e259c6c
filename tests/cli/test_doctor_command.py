"""`cogworks doctor`: lines or JSON, and the exit status."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogworks.doctor import forward

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CLIP_SIDE", 16)


def test_this_installation(run: Run) -> None:
    ran = run("doctor", "--no-self-test")
    assert ran.code == 0
    *lines, last = ran.out.splitlines()
    assert last.startswith("this installation: no problems, ")
    assert any(line.startswith("ok       versions ") for line in lines)
    assert "self-test" not in ran.out
    found = json.loads(run("doctor", "--no-self-test", "--json").out)
    assert found["counts"]["problem"] == 0
    assert {each["part"] for each in found["findings"]} >= {"versions", "cpu", "dtype", "hub cache", "video"}


def test_a_model(run: Run, model: str) -> None:
    ran = run("doctor", model)
    assert ran.code == 0
    # The weights are random, and so is the number of rows of the text encoder.
    assert ran.out.splitlines()[-1] == f"{model}: no problems, 2 warnings."


def test_a_damaged_model(run: Run, model: str, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "damaged")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    ran = run("doctor", folder)
    assert ran.code == 1
    found, advice = next(
        (line, ran.out.splitlines()[index + 1])
        for index, line in enumerate(ran.out.splitlines())
        if line.startswith("problem  schedule")
    )
    assert found.endswith("scheduler_config.json does not exist.")
    assert advice.strip() == "Fetch the file again from where the model came from."
    assert "has 1 problem; see above" in ran.err
    again = run("doctor", folder, "--json")
    assert again.code == 1
    assert json.loads(again.out)["counts"]["problem"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./nowhere"], "there is no folder ./nowhere"),
        (["."], "is not a model"),
        (["tinny"], "did you mean tiny?"),
        (["tiny", "--no-self-test"], "--no-self-test is for a check without MODEL"),
        (["--variant", "fp16"], "--variant needs a MODEL"),
    ],
)
def test_what_is_no_model_at_all(run: Run, words: list[str], message: str) -> None:
    ran = run("doctor", *words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
