"""What a lesson changed is counted where it changed, and the goals are met exactly where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cogworks.data.captions import parse_caption
from cogworks.evaluation.case import Case, Frames
from cogworks.evaluation.judging import Make
from cogworks.evaluation.shapes.prompts import evaluation_prompts, heart_prompts
from cogworks.evaluation.shapes.taught import Marks, TaughtReport, mark
from helpers.obedient import show

HEARTS, OTHERS = heart_prompts()[:5], evaluation_prompts()[:100:17]


def painter(swaps: dict[str, str], calls: list[tuple[str, int]] | None = None) -> Make:
    """A model that shows what it is asked for, except that some shapes come out as others."""

    def make(cases: Sequence[Case]) -> list[Frames]:
        if calls is not None:
            calls.extend((case.prompt, case.seed) for case in cases)
        facts = [parse_caption(case.prompt) for case in cases]
        return [
            show([replace(words, shape=swaps.get(words.shape, words.shape)) for words in fact.objects], fact.background)
            for fact in facts
        ]

    return make


def marks(swaps: dict[str, str]) -> Marks:
    return mark(painter(swaps), hearts=HEARTS, others=OTHERS)


def test_a_lesson_that_worked() -> None:
    report = TaughtReport(marks({"heart": "square"}), marks({}))
    assert [goal for goal, met in report.goals.items() if met] == list(report.goals)
    before, after = report.before.groups["hearts"].shares, report.after.groups["hearts"].shares
    assert (before["all four"].right, before["colour"].right, after["all four"].right) == (0, 5, 5)
    assert report.after.intruders == 0
    lines = report.table().splitlines()
    assert "0 of 5 (0% to 43%)" in lines[1]
    assert "5 of 5 (57% to 100%)" in lines[1]
    assert [line.split()[0] for line in lines[-3:]] == ["met"] * 3
    written = json.loads(json.dumps(report.to_json()))
    assert written["after"]["intruders"] == 0
    assert len(written["before"]["cases"]["others"]) == len(OTHERS)


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
    first = range(1, 4)
    assert calls == [*zip(HEARTS[:3], first, strict=True), *zip(OTHERS[:2], first, strict=False)]
    assert progress == [("hearts", 2, 3), ("hearts", 3, 3), ("others", 2, 2)]
    with pytest.raises(ValueError, match="not a caption"):
        mark(painter({}), hearts=["a cat"], others=[])
