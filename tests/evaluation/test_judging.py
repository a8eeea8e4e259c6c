"""Every case is made once with its own seed, in batches that a longer run makes again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cogworks.evaluation.case import Case, Frames
from cogworks.evaluation.judging import batches, judge_all
from cogworks.evaluation.shapes.prompts import evaluation_prompts
from cogworks.evaluation.shapes.suite import caption_cases, judge, shapes_suite
from helpers.obedient import obedient

CASES = caption_cases(evaluation_prompts()[:5], "one object")


def numbers(cases: Sequence[Case], batch: int) -> list[list[int]]:
    return [[case.number for case in some] for some in batches(cases, batch)]


def test_batches_do_not_mix_groups() -> None:
    others = caption_cases(evaluation_prompts()[:3], "others", first_number=6)
    assert numbers((*CASES, *others), 2) == [[1, 2], [3, 4], [5], [6, 7], [8]]


def test_a_longer_list_has_the_same_batches_again() -> None:
    assert numbers(CASES, 3)[:1] == numbers(CASES[:3], 3)


def test_an_image_begins_one_video() -> None:
    images = shapes_suite(takes_image=True).cases[99:102]
    assert numbers(images, 8) == [[100], [101], [102]]


def test_seeds_and_order_do_not_depend_on_the_batch() -> None:
    calls: list[tuple[str, int]] = []
    progress: list[tuple[int, int]] = []

    def make(cases: Sequence[Case]) -> list[Frames]:
        calls.extend((case.prompt, case.seed) for case in cases)
        return obedient(cases)

    by_two = judge_all(make, CASES, judge, batch=2, on_progress=lambda done, total: progress.append((done, total)))
    assert calls == list(zip(evaluation_prompts()[:5], range(1, 6), strict=True))
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert by_two == judge_all(obedient, CASES, judge, batch=5)
    assert all(outcome.all_right for outcome in by_two)


def test_faults_are_counted_where_they_are() -> None:
    def faulty(cases: Sequence[Case]) -> list[Frames]:
        """The third video is black."""
        return [np.zeros_like(f) if c.seed == 3 else f for c, f in zip(cases, obedient(cases), strict=True)]

    outcomes = judge_all(faulty, CASES, judge, batch=2)
    assert [outcome.all_right for outcome in outcomes] == [True, True, False, True, True]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="batch"):
        judge_all(obedient, CASES, judge, batch=0)
    with pytest.raises(ValueError, match="one video for each"):
        judge_all(lambda cases: [], CASES, judge)
