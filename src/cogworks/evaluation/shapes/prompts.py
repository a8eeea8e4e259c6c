"""The prompts a model of the Shapes world is judged by, and those by which its settings are chosen.

Evaluation prompts ask for combinations of (shape, colour, motion) that training never showed. Nothing may be chosen by
them: number of steps, guidance and the like are chosen on the validation prompts, whose combinations training shows.
The lists are files, so that a result can name what it was measured on; the `compose_` functions are how they came
about.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources

from cogworks.data.captions import TEMPLATES, ObjectWords, write_caption
from cogworks.data.shape_words import (
    BACKGROUNDS,
    Triple,
    all_triples,
    backgrounds_for,
    distinguishable,
    held_out_triples,
    novel_triples,
    train_triples,
)

PROMPTS_FILE, NUM_PROMPTS = "eval_shapes_200.txt", 200
TWO_PROMPTS_FILE, NUM_TWO_PROMPTS = "eval_shapes_two_100.txt", 100
VALIDATION_FILE, NUM_VALIDATION = "val_shapes_100.txt", 100
TWO_VALIDATION_FILE, NUM_TWO_VALIDATION = "val_shapes_two_50.txt", 50
HEART_PROMPTS_FILE, NUM_HEART_PROMPTS = "eval_heart_50.txt", 50


def evaluation_prompts() -> list[str]:
    """The committed list of one object each, in its order."""
    return _read(PROMPTS_FILE)


def two_object_prompts() -> list[str]:
    """The committed list of two objects each, in its order."""
    return _read(TWO_PROMPTS_FILE)


def validation_prompts() -> list[str]:
    """The committed list of one object each by which settings are chosen, in its order."""
    return _read(VALIDATION_FILE)


def two_object_validation_prompts() -> list[str]:
    """The committed list of two objects each by which settings are chosen, in its order."""
    return _read(TWO_VALIDATION_FILE)


def heart_prompts() -> list[str]:
    """The committed list that asks for hearts, a shape that no bundled model has been trained on, in its order."""
    return _read(HEART_PROMPTS_FILE)


def compose_prompts() -> list[str]:
    """200 prompts that go round the 38 held-out triples.

    Every background appears 39 to 41 times. One prompt in three says a size. A triple that has used all its
    backgrounds meets one again in another phrasing.
    """
    return _go_round(sorted(held_out_triples()), NUM_PROMPTS)


def compose_two_object_prompts() -> list[str]:
    """100 prompts that go round the 38 held-out triples, each with a second object of any triple.

    The held-out one comes first in every other prompt.
    """
    return _pairs(sorted(held_out_triples()), all_triples(), NUM_TWO_PROMPTS)


def compose_validation_prompts() -> list[str]:
    """100 prompts of as many triples that training shows, which the hash of their words chooses."""
    return _go_round(_shuffled(train_triples(), "validation"), NUM_VALIDATION)


def compose_two_object_validation_prompts() -> list[str]:
    """50 prompts of pairs of triples that training shows."""
    chosen = _shuffled(train_triples(), "validation of two")
    return _pairs(chosen[:NUM_TWO_VALIDATION], chosen[NUM_TWO_VALIDATION:], NUM_TWO_VALIDATION)


def compose_heart_prompts() -> list[str]:
    """50 prompts that go round the 16 held-out triples of the heart, made like `compose_prompts`."""
    return _go_round(novel_triples("heart")[1], NUM_HEART_PROMPTS)


def _go_round(triples: Sequence[Triple], number: int) -> list[str]:
    """Prompts that take the triples in turn, each time on another background and in another phrasing."""
    used: Counter[str] = Counter()
    seen: Counter[tuple[Triple, str]] = Counter()
    prompts = []
    for index in range(number):
        triple = triples[index % len(triples)]
        choice = [name for name in BACKGROUNDS if distinguishable(triple[1], name)]
        # Ties go to a background that moves on with the index, so that neighbours in the list differ.
        background = min(choice, key=lambda name: (seen[triple, name], used[name], _turn(name, index)))
        used[background] += 1
        seen[triple, background] += 1
        size = (None, None, "small", None, None, "large")[index % 6]
        prompts.append(write_caption([ObjectWords(*triple, size)], background, TEMPLATES[index % len(TEMPLATES)]))
    return prompts


def _pairs(firsts: Sequence[Triple], seconds: Sequence[Triple], number: int) -> list[str]:
    """Prompts that take `firsts` in turn; beside each goes the one of another colour whose words are rarest so far."""
    words: Counter[str] = Counter()
    used: Counter[str] = Counter()
    prompts = []
    order = _shuffled(seconds, "second")
    for index in range(number):
        first = firsts[index % len(firsts)]
        second = min(
            (triple for triple in order if triple[1] != first[1]),
            key=lambda triple: max(words[word] for word in triple),
        )
        order.remove(second)
        words.update(second)
        background = min(backgrounds_for(first[1], second[1]), key=lambda name: (used[name], _turn(name, index)))
        used[background] += 1
        objects = [ObjectWords(*triple) for triple in ((first, second), (second, first))[index % 2]]
        prompts.append(write_caption(objects, background, TEMPLATES[index % len(TEMPLATES)]))
    return prompts


def _turn(background: str, index: int) -> int:
    """The place of a background in a list that begins one later with every index."""
    return (BACKGROUNDS.index(background) - index) % len(BACKGROUNDS)


def _shuffled(triples: Iterable[Triple], purpose: str) -> list[Triple]:
    """In the order of the SHA-256 of the purpose and their words."""
    return sorted(triples, key=lambda triple: hashlib.sha256(" ".join((purpose, *triple)).encode()).digest())


def _read(name: str) -> list[str]:
    return resources.files("cogworks").joinpath("assets", name).read_text(encoding="utf-8").splitlines()
