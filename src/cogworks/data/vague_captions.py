"""Captions that leave things unsaid, or name things that the Shapes world does not know.

Who animates a picture says how it moves, not what is in it: "an object moves left". A model that has only read complete
captions looks for the rest of them in the text instead of in the picture.
"""

from __future__ import annotations

import numpy as np

from cogworks.data.captions import TEMPLATES, ObjectWords

UNSAID_SHAPE = "object"
SHAPE_UNSAID, COLOUR_UNSAID, BACKGROUND_UNSAID = 0.6, 0.5, 0.4  # probabilities
FOREIGN_NOUN = 0.25

TEMPLATES_WITHOUT_BACKGROUND: tuple[str, ...] = (
    "{verbs}",
    "{participles}",
    "{relatives}",
    "video of {participles}",
)

_LETTERS = np.array(list("aaeeiioubcdfghklmnprstvwz"))  # vowels often, so that words look like words


def vague_words(words: ObjectWords, rng: np.random.Generator) -> ObjectWords:
    """What is left of the facts about an object: always its motion.

    Shape and colour are left out apart from each other ("a red object"), or a made-up noun stands for both.
    """
    if rng.random() < FOREIGN_NOUN:
        return ObjectWords(foreign_noun(rng), None, words.motion)
    shape = UNSAID_SHAPE if rng.random() < SHAPE_UNSAID else words.shape
    colour = None if rng.random() < COLOUR_UNSAID else words.colour
    return ObjectWords(shape, colour, words.motion, words.size)


def vague_template(rng: np.random.Generator) -> str:
    """The form of a caption that may leave the background unsaid."""
    templates = TEMPLATES_WITHOUT_BACKGROUND if rng.random() < BACKGROUND_UNSAID else TEMPLATES
    return templates[rng.integers(len(templates))]


def foreign_noun(rng: np.random.Generator) -> str:
    """One or two made-up words."""
    return " ".join("".join(rng.choice(_LETTERS, rng.integers(3, 9))) for _ in range(rng.integers(1, 3)))
