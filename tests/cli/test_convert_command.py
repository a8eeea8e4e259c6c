"""`cogworks convert`: there and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_to_sat_and_back_is_the_same_folder(run: Run, model: str) -> None:
    there = run("convert", model, "sat", "--to", "sat")
    assert (there.code, there.out) == (0, "sat\n"), there.err
    back = run("convert", "sat", "back", "--to", "diffusers", "--json")
    assert json.loads(back.out) == {"source": "sat", "path": "back", "layout": "diffusers"}
    names = {path.relative_to(model) for path in Path(model).rglob("*") if path.is_file()}
    assert names == {path.relative_to("back") for path in Path("back").rglob("*") if path.is_file()}
    for name in names:
        assert (Path(model) / name).read_bytes() == (Path("back") / name).read_bytes(), name


def test_a_folder_with_something_in_it_is_left_alone(run: Run, model: str) -> None:
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    ran = run("convert", model, "full", "--to", "sat")
    assert ran.code == 2
    assert "full" in ran.err.splitlines()[-1]
    assert [path.name for path in Path("full").iterdir()] == ["mine"]
    assert [path.name for path in Path().iterdir()] == ["full"]
