"""`cogworks data check`: what it prints, and with which status it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.little_clips import save_clip, touch

Run = Callable[..., Any]
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def clips(tmp_path: Path) -> str:
    for index in range(3):
        save_clip(tmp_path / "clips" / f"{index}.mp4", 9 + index, caption=f"caption {index}")
    return "clips"


def test_a_sound_folder(run: Run, clips: str) -> None:
    ran = run("data", "check", clips, "--size", "9x32x48", "--workers", 1)
    assert (ran.code, ran.err) == (0, "decoding, 3 clips\n")
    rows = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert rows["clips"] == "3 clips"
    assert rows["frames"] == "9 to 11, median 10"
    assert rows["heights"] == "32"
    assert rows["9x32x48"] == "3 clips"
    assert ran.out.splitlines()[-1] == "clips: no problems."


def test_problems_are_all_told_and_the_status_is_one(run: Run, clips: str) -> None:
    touch(Path(clips, "noise.mp4"))
    touch(Path(clips, "noise.txt"), "noise")
    touch(Path(clips, "alone.txt"), "alone")
    ran = run("data", "check", clips, "--size", "10x32x48", "--workers", 1)
    assert ran.code == 1
    told = [line.split()[:2] for line in ran.out.splitlines() if line.startswith(("un", "fits"))]
    assert told == [["unpaired", "alone.txt:"], ["fits", "no"], ["unreadable", "noise.mp4:"]]
    assert ran.out.splitlines()[-1] == "clips: 3 problems (1 unpaired, 1 fits no size, 1 unreadable)."
    assert "3 problems; see above" in ran.err


def test_json(run: Run, clips: str) -> None:
    touch(Path(clips, "alone.txt"), "alone")
    ran = run("data", "check", clips, "--json", "--workers", 1, "--picture", "picture.png")
    found = json.loads(ran.out)
    assert ran.code == 1
    assert [clip["frames"] for clip in found["clips"]] == [9, 10, 11]
    assert found["problems"] == [{"name": "alone.txt", "kind": "unpaired", "text": "caption without clip"}]
    assert found["counts"] == {"unpaired": 1}
    assert found["picture"] == "picture.png"
    assert Path("picture.png").is_file()
    for line in ran.err.splitlines():
        json.loads(line)


def test_a_picture_is_not_replaced_unasked(run: Run, clips: str) -> None:
    touch(Path("picture.png"))
    asked = ("data", "check", clips, "--workers", 1, "--picture", "picture.png")
    ran = run(*asked)
    assert (ran.code, ran.out) == (2, "")
    assert "--force" in ran.err
    assert run(*asked, "--force").code == 0


def recipe(path: str, data: dict[str, object]) -> str:
    values = yaml.safe_load((RECIPES / "tiny-vae.yaml").read_text())
    values["data"] = data
    values.pop("codec", None)  # it is fitted to the Shapes world
    Path(path).write_text(yaml.safe_dump(values))
    return path


def test_a_recipe_that_draws_its_data(run: Run) -> None:
    ran = run("data", "check", RECIPES / "tiny-vae.yaml")
    assert ran.code == 2
    assert "drawn shapes" in ran.err


def test_a_recipe_of_clips(run: Run, clips: str) -> None:
    ran = run(
        "data", "check", recipe("r.yaml", {"kind": "clips", "source": clips, "sizes": [[10, 32, 48]]}), "--workers", 1
    )
    assert ran.code == 1, ran.err
    assert "clips: 1 problem (1 fits no size)." in ran.out
    ran = run("data", "check", "r.yaml", "--size", "9x32x48")
    assert ran.code == 2
    assert "leave out --size" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "no such folder"),
        (["clips", "--size", "9x32"], "--size is frames, height and width"),
        (["clips", "--size", "axbxc"], "--size is frames, height and width"),
        (["clips", "--size", "0x32x48"], "each 1 or more"),
        (["clips", "--fps", "8"], "--fps needs --size"),
        (["clips", "--size", "9x32x48", "--fps", "-1"], "fps"),
        (["clips", "--workers", "0"], "--workers must be 1 or more"),
        (["clips", "--picture", "a.mp4"], "ends in .png"),
        (["clips", "--picture", "missing/a.png"], "folder is not there"),
        (["clips/0.mp4"], "no source of clips"),
        (["missing.yaml"], "missing.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(run: Run, clips: str, arguments: list[str], words: str) -> None:
    ran = run("data", "check", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1


def test_an_empty_folder(run: Run) -> None:
    Path("empty").mkdir()
    ran = run("data", "check", "empty")
    assert ran.code == 2
    assert "looked for captions" in ran.err
