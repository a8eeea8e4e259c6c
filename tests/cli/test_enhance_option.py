"""`generate --enhance`: both prompts are in the recipe, and what is done already is not asked for again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogworks.video import read_metadata

Run = Callable[..., Any]
ANSWER = "a bright red circle glides to the right"


def test_both_prompts_are_kept_and_a_job_is_enhanced_once(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import sys; sys.stdin.read(); open('asked', 'a').write('x'); print({ANSWER!r})"
    Path("settings.yaml").write_text(yaml.safe_dump({"enhance": {"command": [sys.executable, "-c", program]}}))
    monkeypatch.setenv("COGWORKS_SETTINGS", "settings.yaml")
    Path("jobs.txt").write_text("a red circle\n")
    command = ("generate", "--batch", "jobs.txt", "--enhance", "--model", model, "-o", "out.gif", "--steps", 1)
    first = run(*command)
    assert first.code == 0, first.err
    request: Any = read_metadata(first.out.strip())["cogworks"]
    assert (request["request"]["short_prompt"], request["request"]["prompt"]) == ("a red circle", ANSWER)
    again = run(*command)
    assert (again.code, again.out) == (0, "")
    assert Path("asked").read_text() == "x"


def test_not_configured_is_said_before_anything_is_loaded(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGWORKS_SETTINGS", "none.yaml")
    ran = run("generate", "a red circle", "--enhance", "--model", model)
    assert ran.code == 2
    assert "base_url" in ran.err
    assert "loading" not in ran.err
