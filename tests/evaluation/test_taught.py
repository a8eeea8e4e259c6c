"""What a lesson changed is counted where it changed, and the goals are met exactly where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cogworks.data.captions import parse_caption
from cogworks.data.shapes import Scene, SceneObject, render_scene
from cogworks.evaluation.prompts import evaluation_prompts, heart_prompts
from cogworks.evaluation.taught import FIRST_SEED, Marks, TaughtReport, mark

HEARTS, OTHERS = heart_prompts()[:5], evaluation_prompts()[::17]


def painter(swaps: dict[str, str], calls: list[tuple[str, int]] | None = None):  # type: ignore[no-untyped-def]
    """A model that shows what it is asked for, except that some shapes come out as others."""

    def generate(prompts: list[str], seeds: list[int]) -> list[np.ndarray]:
        if calls is not None:
            calls.extend(zip(prompts, seeds, strict=True))
        videos = []
        for prompt in prompts:
            facts = parse_caption(prompt)
            (words,) = facts.objects
            item = SceneObject(swaps.get(words.shape, words.shape), words.colour, words.motion, "large", (0, 0), 16.0)
            videos.append(render_scene(Scene((item,), facts.background, prompt), 64, 64, 17, 8))
        return videos

    return generate


def marks(swaps: dict[str, str]) -> Marks:
    return mark(painter(swaps), hearts=HEARTS, others=OTHERS)


def test_a_lesson_that_worked() -> None:
    report = TaughtReport(marks({"heart": "square"}), marks({}))
    assert [goal for goal, met in report.goals.items() if met] == list(report.goals)
    assert report.before.hearts.all_four.right == 0
    assert report.before.hearts.accuracy("colour").right == 5
    assert report.after.hearts.all_four.right == 5
    assert report.after.intruders == 0
    lines = report.table().splitlines()
    assert "0 of 5 (0% to 43%)" in lines[1]
    assert "5 of 5 (57% to 100%)" in lines[1]
    assert [line.split()[0] for line in lines[-3:]] == ["met"] * 3
    written = json.loads(json.dumps(report.to_json()))
    assert written["after"]["intruders"] == 0
    assert len(written["before"]["others"]["rows"]) == len(OTHERS)


def test_a_lesson_that_went_too_far() -> None:
    report = TaughtReport(marks({"heart": "square"}), marks({"star": "heart"}))
    stars = sum("star" in prompt for prompt in OTHERS)
    assert report.after.intruders == stars > 0
    assert list(report.goals.values()) == [True, True, False]
    assert report.table().splitlines()[-1].startswith("MISSED")


def test_nothing_new_was_taught() -> None:
    known, unknown = marks({}), marks({"heart": "circle"})
    assert list(TaughtReport(known, known).goals.values()) == [False, True, True]
    assert list(TaughtReport(unknown, unknown).goals.values()) == [True, False, True]


def test_both_lists_have_the_seeds_of_their_lines() -> None:
    calls: list[tuple[str, int]] = []
    progress: list[tuple[str, int, int]] = []
    mark(
        painter({}, calls),
        hearts=HEARTS[:3],
        others=OTHERS[:2],
        batch=2,
        on_progress=lambda *step: progress.append(step),
    )
    first = range(FIRST_SEED, FIRST_SEED + 3)
    assert calls == [*zip(HEARTS[:3], first, strict=True), *zip(OTHERS[:2], first, strict=False)]
    assert progress == [("hearts", 2, 3), ("hearts", 3, 3), ("others", 2, 2)]
    with pytest.raises(ValueError, match="not a caption"):
        mark(painter({}), hearts=["a cat"], others=[])
