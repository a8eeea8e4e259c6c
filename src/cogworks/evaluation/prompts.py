"""The prompts a model of the Shapes world is judged by.

Each asks for one object whose (shape, colour, motion) training never showed. The list is a file, so that a result can
name what it was measured on; `compose_prompts` is how it came about.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources

from cogworks.data.captions import TEMPLATES, ObjectWords, write_caption
from cogworks.data.shape_words import BACKGROUNDS, distinguishable, held_out_triples

NUM_PROMPTS = 100
PROMPTS_FILE = "eval_shapes_100.txt"


def evaluation_prompts() -> list[str]:
    """The committed list, in its order."""
    return resources.files("cogworks").joinpath("assets", PROMPTS_FILE).read_text(encoding="utf-8").splitlines()


def compose_prompts() -> list[str]:
    """100 prompts that go round the 38 held-out triples, each time on another background and in another phrasing.

    Every background appears 19 to 21 times. One prompt in three says a size.
    """
    used: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    triples = sorted(held_out_triples())
    prompts = []
    for index in range(NUM_PROMPTS):
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
