"""The prompts a model of the Shapes world is judged by.

Each asks for one object whose (shape, colour, motion) training never showed. The lists are files, so that a result can
name what it was measured on; the `compose_` functions are how they came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources

from cogworks.data.captions import TEMPLATES, ObjectWords, write_caption
from cogworks.data.shape_words import BACKGROUNDS, Triple, distinguishable, held_out_triples, novel_triples

NUM_PROMPTS = 100
PROMPTS_FILE = "eval_shapes_100.txt"
NUM_HEART_PROMPTS = 50
HEART_PROMPTS_FILE = "eval_heart_50.txt"


def evaluation_prompts() -> list[str]:
    """The committed list, in its order."""
    return _read(PROMPTS_FILE)


def heart_prompts() -> list[str]:
    """The committed list that asks for hearts, a shape that no bundled model has been trained on, in its order."""
    return _read(HEART_PROMPTS_FILE)


def compose_prompts() -> list[str]:
    """100 prompts that go round the 38 held-out triples.

    Every background appears 19 to 21 times. One prompt in three says a size.
    """
    return _go_round(sorted(held_out_triples()), NUM_PROMPTS)


def compose_heart_prompts() -> list[str]:
    """50 prompts that go round the 16 held-out triples of the heart, made like `compose_prompts`."""
    return _go_round(novel_triples("heart")[1], NUM_HEART_PROMPTS)


def _go_round(triples: Sequence[Triple], number: int) -> list[str]:
    """Prompts that take the triples in turn, each time on another background and in another phrasing."""
    used: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    prompts = []
    for index in range(number):
        shape, colour, motion = triples[index % len(triples)]
        free = [
            name for name in BACKGROUNDS if distinguishable(colour, name) and (shape, colour, motion, name) not in seen
        ]
        # Ties go to a background that moves on with the index, so that neighbours in the list differ.
        background = min(free, key=lambda name: (used[name], (BACKGROUNDS.index(name) - index) % len(BACKGROUNDS)))
        used[background] += 1
        seen.add((shape, colour, motion, background))
        size = (None, None, "small", None, None, "large")[index % 6]
        prompts.append(write_caption([ObjectWords(shape, colour, motion, size)], background, index % len(TEMPLATES)))
    return prompts


def _read(name: str) -> list[str]:
    return resources.files("cogworks").joinpath("assets", name).read_text(encoding="utf-8").splitlines()
