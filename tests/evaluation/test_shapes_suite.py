"""The cases of the Shapes world, and the judge that says what their videos show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cogworks.data.captions import ObjectWords, parse_caption
from cogworks.evaluation.case import Case, Frames
from cogworks.evaluation.shapes.oracle import ATTRIBUTES
from cogworks.evaluation.shapes.prompts import evaluation_prompts, two_object_prompts
from cogworks.evaluation.shapes.suite import (
    FIRST_FRAME,
    ONE_OBJECT,
    TWO_OBJECTS,
    caption_cases,
    judge,
    shapes_suite,
    text_cases,
)
from helpers.obedient import obedient, show

TWO = "a red circle grows and a blue ring moves up on a black background"


def two_seen(*objects: tuple[str, str, str], background: str = "black") -> Frames:
    return show([ObjectWords(*words) for words in objects], background)


def case_of(prompt: str) -> Case:
    return caption_cases([prompt], "any")[0]


def test_cases_of_text_to_video() -> None:
    suite = shapes_suite(takes_image=False)
    ones, twos = suite.cases[:200], suite.cases[200:]
    assert [case.prompt for case in ones] == evaluation_prompts()
    assert [case.prompt for case in twos] == two_object_prompts()
    assert {case.group for case in ones} == {ONE_OBJECT}
    assert {case.group for case in twos} == {TWO_OBJECTS}
    assert [case.number for case in suite.cases] == list(range(1, 301))
    assert [case.seed for case in suite.cases] == [*range(1, 201), *range(1, 101)]
    assert all(case.asked == parse_caption(case.prompt) and case.image is None for case in suite.cases)


def test_cases_of_image_to_video() -> None:
    suite = shapes_suite(takes_image=True)
    assert [case.number for case in suite.cases] == list(range(1, 201))
    assert [case.group for case in suite.cases] == ["rendered"] * 100 + ["foreign"] * 100
    assert all(case.image is not None for case in suite.cases)
    assert suite.fingerprint != shapes_suite(takes_image=False).fingerprint
    assert suite.fingerprint == shapes_suite(takes_image=True).fingerprint


@pytest.mark.parametrize("part", range(4))
def test_an_obedient_model_has_full_marks(part: int) -> None:
    cases = text_cases()[part * 7 :: 29]
    for case, frames in zip(cases, obedient(cases), strict=True):
        outcome = judge(case, frames)
        assert outcome.marks == dict.fromkeys(ATTRIBUTES, True), case.prompt
        assert (outcome.number, outcome.group, outcome.prompt, outcome.seed) == (
            *(case.number, case.group, case.prompt, case.seed),
        )
        assert not outcome.measures


@pytest.mark.parametrize(
    ("attribute", "words", "background"),
    [
        ("shape", ("square", "red", "grows"), "black"),
        ("colour", ("circle", "blue", "grows"), "black"),
        ("motion", ("circle", "red", "still"), "black"),
        ("background", ("circle", "red", "grows"), "navy"),
    ],
)
def test_one_fault_of_one_object_is_one_wrong_mark(
    attribute: str, words: tuple[str, str, str], background: str
) -> None:
    outcome = judge(case_of("a red circle grows on black"), show([ObjectWords(*words)], background))
    assert [name for name, right in outcome.marks.items() if not right] == [attribute]
    assert not outcome.all_right
    asked, seen = outcome.words[attribute][0]
    assert (asked, seen) == (
        {"shape": "circle", "colour": "red", "motion": "grows", "background": "black"}[attribute],
        {"shape": "square", "colour": "blue", "motion": "still", "background": "navy"}[attribute],
    )


def test_an_empty_clip_shows_nothing() -> None:
    outcome = judge(case_of("a red circle grows on black"), np.zeros((17, 64, 64, 3), np.uint8))
    assert outcome.marks == {"shape": False, "colour": False, "motion": False, "background": True}
    assert outcome.words["shape"] == [("circle", None)]


def test_two_objects_are_matched_by_colour_wherever_they_are() -> None:
    outcome = judge(case_of(TWO), two_seen(("ring", "blue", "up"), ("circle", "red", "grows")))
    assert outcome.all_right
    assert outcome.words["shape"] == [("circle", "circle"), ("ring", "ring")]


def test_two_objects_that_changed_colours_are_wrong() -> None:
    """Bound to the wrong noun: the colours are there, the shapes and motions belong to the other."""
    outcome = judge(case_of(TWO), two_seen(("circle", "blue", "grows"), ("ring", "red", "up")))
    assert outcome.marks == {"shape": False, "colour": True, "motion": False, "background": True}


def test_a_mark_of_two_objects_needs_both() -> None:
    outcome = judge(case_of(TWO), two_seen(("circle", "red", "grows"), ("ring", "blue", "down")))
    assert [name for name, right in outcome.marks.items() if not right] == ["motion"]
    assert outcome.words["motion"] == [("grows", "grows"), ("up", "down")]


def test_an_object_of_another_colour_is_not_the_one_that_was_asked_for() -> None:
    outcome = judge(case_of(TWO), two_seen(("circle", "red", "grows"), ("ring", "yellow", "up")))
    assert outcome.marks == {"shape": False, "colour": False, "motion": False, "background": True}
    assert outcome.words["colour"] == [("red", "red"), ("blue", "yellow")]
    assert outcome.words["shape"] == [("circle", "circle"), ("ring", None)]


def test_one_object_where_two_were_asked_for() -> None:
    outcome = judge(case_of(TWO), show([ObjectWords("circle", "red", "grows")], "black"))
    assert outcome.marks == {"shape": False, "colour": False, "motion": False, "background": True}
    assert outcome.words["colour"] == [("red", "red"), ("blue", None)]


def test_the_first_frame_is_compared_with_the_image() -> None:
    case = case_of("a red circle grows on black")
    (frames,) = obedient([case])
    exact = judge(replace(case, image=frames[0]), frames)
    assert exact.measures == {FIRST_FRAME: 100}
    off = np.minimum(frames[0], 245) + np.uint8(10)
    assert judge(replace(case, image=off), frames).measures[FIRST_FRAME] == pytest.approx(28.13, abs=0.1)
    twice = np.repeat(np.repeat(off, 2, axis=0), 2, axis=1)  # it comes to the size of the video
    assert judge(replace(case, image=twice), frames).measures[FIRST_FRAME] == pytest.approx(28.1, abs=0.5)


def test_prompts_that_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="not a caption"):
        caption_cases(["a cat"], "any")
    with pytest.raises(ValueError, match="asks for 3"):
        caption_cases(["a red circle grows and a blue ring shrinks and a white star grows on black"], "any")
