"""The lists of prompts are what they promise, and those for choosing have nothing of those for measuring."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

import pytest

from cogworks.data.captions import CaptionFacts, parse_caption
from cogworks.data.shape_words import SHAPES, held_out_triples, novel_triples
from cogworks.data.shapes import BACKGROUNDS, COLOURS, MOTIONS, distinguishable
from cogworks.evaluation.shapes import prompts

FIRST_HUNDRED = "a0bed0ada615b5fbc989acaa9dfc4d3eb21d1346d990ed1c113c1d87044d7e19"

LISTS: dict[str, tuple[Callable[[], list[str]], Callable[[], list[str]], int, int]] = {
    "one object": (prompts.evaluation_prompts, prompts.compose_prompts, 200, 1),
    "two objects": (prompts.two_object_prompts, prompts.compose_two_object_prompts, 100, 2),
    "validation": (prompts.validation_prompts, prompts.compose_validation_prompts, 100, 1),
    "validation of two": (
        prompts.two_object_validation_prompts,
        prompts.compose_two_object_validation_prompts,
        50,
        2,
    ),
    "hearts": (prompts.heart_prompts, prompts.compose_heart_prompts, 50, 1),
}


def facts(texts: list[str]) -> list[CaptionFacts]:
    return [parse_caption(text) for text in texts]


def triples(texts: list[str]) -> list[tuple[str, str, str]]:
    return [(item.shape, item.colour, item.motion) for fact in facts(texts) for item in fact.objects]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_the_committed_one(name: str) -> None:
    read, compose, number, objects = LISTS[name]
    assert read() == compose()
    assert len(set(read())) == len(read()) == number
    assert all(len(fact.objects) == objects for fact in facts(read()))


@pytest.mark.parametrize("name", LISTS)
def test_what_is_asked_for_can_be_seen(name: str) -> None:
    for fact in facts(LISTS[name][0]()):
        assert all(distinguishable(item.colour, fact.background) for item in fact.objects)
        assert len({item.colour for item in fact.objects}) == len(fact.objects)


@pytest.mark.parametrize("name", LISTS)
def test_backgrounds_are_even(name: str) -> None:
    counts = Counter(fact.background for fact in facts(LISTS[name][0]()))
    assert set(counts) == set(BACKGROUNDS)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_one_object_covers_the_held_out_triples_evenly() -> None:
    counts = Counter(triples(prompts.evaluation_prompts()))
    assert set(counts) == held_out_triples()
    assert set(counts.values()) == {5, 6}


def test_the_first_hundred_stay_what_earlier_figures_were_measured_on() -> None:
    text = "".join(f"{prompt}\n" for prompt in prompts.evaluation_prompts()[:100])
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_HUNDRED


def test_two_objects_have_a_held_out_triple_in_every_prompt() -> None:
    texts = prompts.two_object_prompts()
    held_out = held_out_triples()
    places: Counter[int] = Counter()
    for text in texts:
        found = [triple in held_out for triple in triples([text])]
        assert any(found)
        places.update(place for place, is_held_out in enumerate(found) if is_held_out)
    assert min(places.values()) >= 40  # in either place: position tells nothing
    assert set(triples(texts)) >= held_out
    words = Counter(word for triple in triples(texts) for word in triple)
    assert all(words[word] >= 20 for word in (*SHAPES, *COLOURS, *MOTIONS))


def test_validation_asks_for_what_training_shows() -> None:
    for texts in (prompts.validation_prompts(), prompts.two_object_validation_prompts()):
        assert not set(triples(texts)) & held_out_triples()
        assert len(set(triples(texts))) == len(triples(texts))
        words = {word for triple in triples(texts) for word in triple}
        assert words == {*SHAPES, *COLOURS, *MOTIONS}


def test_nothing_is_chosen_by_what_is_measured() -> None:
    chosen_by = {*prompts.validation_prompts(), *prompts.two_object_validation_prompts()}
    assert not chosen_by & {*prompts.evaluation_prompts(), *prompts.two_object_prompts()}


def test_hearts_cover_their_held_out_triples_evenly() -> None:
    counts = Counter(triples(prompts.heart_prompts()))
    assert set(counts) == set(novel_triples("heart")[1])
    assert set(counts.values()) == {3, 4}
