"""The words of the Shapes world: what an object can be, its palette, and the combinations kept for evaluation.

A *triple* is (shape, colour, motion). There are 6 x 8 x 8 = 384; `held_out_triples` keeps 38 of them out of training,
so that a model can be asked for a combination whose words it knows and whose picture it has never seen.

A *novel* shape is in no triple of those: nothing draws it unless it is asked for by name, so that a model trained on
this world can be taught it. It has 8 x 8 triples of its own, 16 of which are held out.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import cache

RGB = tuple[int, int, int]
Triple = tuple[str, str, str]

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "diamond", "ring")
NOVEL_SHAPES: tuple[str, ...] = ("heart",)
ALL_SHAPES: tuple[str, ...] = SHAPES + NOVEL_SHAPES

COLOURS: dict[str, RGB] = {
    "red": (225, 40, 40),
    "green": (40, 190, 70),
    "blue": (55, 95, 245),
    "yellow": (250, 225, 50),
    "purple": (165, 55, 205),
    "cyan": (45, 215, 230),
    "orange": (250, 135, 25),
    "white": (245, 245, 245),
}

MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "still", "grows", "shrinks", "orbits")

# Colour at the top and at the bottom row; rows between are a straight line in RGB.
BACKGROUND_COLOURS: dict[str, tuple[RGB, RGB]] = {
    "black": ((0, 0, 0), (0, 0, 0)),
    "gray": ((110, 110, 110), (110, 110, 110)),
    "navy": ((12, 20, 70), (12, 20, 70)),
    "beige": ((225, 208, 170), (225, 208, 170)),
    "gradient": ((0, 70, 80), (110, 60, 30)),
}
BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_COLOURS)

MIN_COLOUR_DISTANCE = 100.0  # Euclidean, in 8-bit RGB; leaves out white on beige and no other pair
HELD_OUT_COUNT = 38  # a tenth of 384


def distinguishable(colour: str, background: str) -> bool:
    """Whether an object of this colour can be told from every row of this background."""
    top, bottom = BACKGROUND_COLOURS[background]
    rows = 33
    for row in range(rows):
        share = row / (rows - 1)
        mixed = [(1 - share) * a + share * b for a, b in zip(top, bottom, strict=True)]
        if sum((a - b) ** 2 for a, b in zip(mixed, COLOURS[colour], strict=True)) < MIN_COLOUR_DISTANCE**2:
            return False
    return True


@cache
def backgrounds_for(*colours: str) -> tuple[str, ...]:
    """The backgrounds on which every one of `colours` can be seen, in the order of `BACKGROUNDS`."""
    return tuple(name for name in BACKGROUNDS if all(distinguishable(colour, name) for colour in colours))


@cache
def all_triples() -> tuple[Triple, ...]:
    """All (shape, colour, motion) without the novel shapes, shape slowest."""
    return tuple(itertools.product(SHAPES, COLOURS, MOTIONS))


@cache
def held_out_triples() -> frozenset[Triple]:
    """The triples of `all_triples` never seen in training.

    Triples are taken in the order of the SHA-256 of their words. One is passed over when its shape, colour or motion
    already has its even share (7 of 38, 5 of 38, 5 of 38, rounded up), so that every word is held out about equally
    often and no word is rare in training.
    """
    share = {
        **{word: -(-HELD_OUT_COUNT // len(SHAPES)) for word in SHAPES},
        **{word: -(-HELD_OUT_COUNT // len(COLOURS)) for word in COLOURS},
        **{word: -(-HELD_OUT_COUNT // len(MOTIONS)) for word in MOTIONS},
    }
    chosen: list[Triple] = []
    for triple in sorted(all_triples(), key=lambda words: hashlib.sha256(" ".join(words).encode()).digest()):
        if len(chosen) < HELD_OUT_COUNT and all(share[word] > 0 for word in triple):
            chosen.append(triple)
            for word in triple:
                share[word] -= 1
    assert len(chosen) == HELD_OUT_COUNT
    return frozenset(chosen)


@cache
def train_triples() -> tuple[Triple, ...]:
    """The triples that training may show, in the order of `all_triples`."""
    return tuple(triple for triple in all_triples() if triple not in held_out_triples())


@cache
def novel_triples(shape: str) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """The triples of a novel shape: those to teach it with, and those held out.

    Held out is every fourth on the diagonals of the table of colours and motions, so that each word is held out twice.

    Raises:
        ValueError: `shape` is not novel.
    """
    if shape not in NOVEL_SHAPES:
        raise ValueError(f"{shape!r} is not a novel shape of the Shapes world; there is {', '.join(NOVEL_SHAPES)}")
    places = list(itertools.product(enumerate(COLOURS), enumerate(MOTIONS)))
    train, held_out = (
        tuple((shape, colour, motion) for (row, colour), (column, motion) in places if ((row + column) % 4 == 0) is out)
        for out in (False, True)
    )
    return train, held_out


def is_held_out(triple: Triple) -> bool:
    """Whether training never shows this triple, which may be of a novel shape."""
    return triple in held_out_triples() or (triple[0] in NOVEL_SHAPES and triple in novel_triples(triple[0])[1])
