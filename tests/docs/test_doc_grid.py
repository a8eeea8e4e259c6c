"""The grid of animations: which prompts, how they lie on the page, and what the files hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import grid  # noqa: E402
from PIL import Image  # noqa: E402

import cogworks  # noqa: E402
from cogworks.data.shapes import render  # noqa: E402
from cogworks.evaluation.shapes.image_cases import image_prompts  # noqa: E402
from cogworks.evaluation.shapes.prompts import evaluation_prompts  # noqa: E402
from helpers.obedient import obedient  # noqa: E402


def cells(lines: list[str]) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in lines]


def test_the_grid_is_the_beginning_of_the_evaluation_list() -> None:
    first, rule, *rest = cells(grid.table("tiny"))
    assert rule == [":---:"] * 4
    rows = [first, *rest]
    prompts = evaluation_prompts()[:16]
    assert [prompt for row in rows[1::2] for prompt in row] == prompts
    shown = [f"![{prompt}](docs/images/tiny-{line}.gif)" for line, prompt in enumerate(prompts, start=1)]
    assert [picture for row in rows[0::2] for picture in row] == shown


def test_the_grid_of_image_to_video_has_picture_and_result_side_by_side() -> None:
    first, _, *rest = cells(grid.table("tiny-i2v"))
    rows = [first, *rest]
    assert {len(row) for row in rows} == {4}
    assert [said for row in rows[1::2] for said in row[1::2]] == image_prompts()[:8]
    drawn = [said for row in rows[1::2] for said in row[0::2]]
    assert drawn == ["drawn by this package"] * 4 + ["drawn by Pillow"] * 4
    assert first[:2] == [
        "![picture 1](docs/images/tiny-i2v-1.png)",
        f"![{image_prompts()[0]}](docs/images/tiny-i2v-1.gif)",
    ]


def test_an_animation_shows_the_frames_at_their_rate(tmp_path: Path) -> None:
    frames, _ = render(5, 3, 64, 17, 8)
    grid.save_animation(frames, 8, tmp_path / "clip.gif")
    with Image.open(tmp_path / "clip.gif") as found:
        assert (found.size, found.n_frames, found.info["loop"]) == ((128, 128), 17, 0)
        lasted = 0
        for number, frame in enumerate(frames):
            found.seek(number)
            lasted += found.info["duration"]
            shown = np.asarray(found.convert("RGB"))
            assert (shown[::2, ::2] == shown[1::2, 1::2]).all()  # enlarged without a filter
            assert np.abs(shown[::2, ::2].astype(int) - frame).max() <= 40
    assert lasted == round(17 / 8 * 100) * 10


def test_a_rare_colour_is_not_lost(tmp_path: Path) -> None:
    """A palette that goes by how often a colour is seen would show a model better than it is."""
    rng = np.random.default_rng(0)
    frames = (100 + rng.integers(0, 60, (4, 64, 64, 3))).astype(np.uint8)
    frames[2, 30:33, 30:33] = (20, 40, 250)
    grid.save_animation(frames, 8, tmp_path / "clip.gif")
    with Image.open(tmp_path / "clip.gif") as found:
        found.seek(2)
        assert np.abs(np.asarray(found.convert("RGB"))[62, 62].astype(int) - (20, 40, 250)).max() < 40


@pytest.mark.parametrize("model", ["tiny", pytest.param("tiny-i2v", marks=pytest.mark.slow)])
def test_every_file_of_the_table_is_made(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogworks.config.variants import VARIANTS
    from cogworks.evaluation import judging

    monkeypatch.setattr(cogworks, "load", lambda name: type("Model", (), {"variant": VARIANTS[name]}))
    monkeypatch.setattr(judging, "making", lambda pipeline: obedient)
    made = grid.make(model, tmp_path, batch=8)
    table = "\n".join(grid.table(model))
    assert {f"docs/images/{path.name}" for path in made} == set(_targets(table))
    assert all(path.is_file() for path in made)


def _targets(table: str) -> list[str]:
    return [part.partition(")")[0] for part in table.split("](")[1:]]
