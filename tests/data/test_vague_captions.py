"""Captions that leave things unsaid, and which words of a caption speak of which object."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from cogworks.data.captions import TEMPLATES, ObjectWords, word_owners, write_caption
from cogworks.data.shape_words import COLOURS, MOTIONS, SHAPES
from cogworks.data.vague_captions import TEMPLATES_WITHOUT_BACKGROUND, vague_template, vague_words

RING = ObjectWords("ring", "orange", "still")
SQUARE = ObjectWords("square", "blue", "left")


def phrases(caption: str, objects: tuple[ObjectWords, ...]) -> list[str]:
    """The words of each object, joined."""
    owners = word_owners(caption, objects)
    words = caption.replace(",", "").split()
    return [
        " ".join(word for word, owner in zip(words, owners, strict=True) if owner == number)
        for number in range(len(objects))
    ]


@pytest.mark.parametrize("template", [*TEMPLATES, *TEMPLATES_WITHOUT_BACKGROUND])
def test_each_object_owns_its_phrase_whatever_the_phrasing(template: str) -> None:
    caption = write_caption([RING, SQUARE], "navy", template)
    first, second = phrases(caption, (RING, SQUARE))
    assert re.fullmatch("an orange ring (that )?stay(s|ing) still", first)
    assert re.fullmatch("a blue square (that )?mov(es|ing) left", second)


def test_of_two_objects_that_share_their_words_each_owns_its_own() -> None:
    twins = (ObjectWords("ring", None, "left"), ObjectWords("ring", None, "left"))
    caption = write_caption(twins, "gray", "video of {participles}")
    assert word_owners(caption, twins) == [None, None, 0, 0, 0, 0, None, 1, 1, 1, 1]


def test_a_caption_of_other_objects_is_refused() -> None:
    with pytest.raises(ValueError, match="does not speak of 'a blue square'"):
        word_owners(write_caption([RING], "navy"), (SQUARE,))


def test_vague_words_always_keep_the_motion_and_lose_the_rest_about_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    for index in range(4000):
        words = ObjectWords(SHAPES[index % 6], [*COLOURS][index % 8], MOTIONS[index % 7], "small")
        said = vague_words(words, rng)
        assert said.motion == words.motion
        assert said.colour in (None, words.colour)
        seen[said.shape if said.shape in ("object", words.shape) else "made up"] += said.shape is not None
        seen["colour"] += said.colour is not None
    assert seen["made up"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert seen["object"] / 4000 == pytest.approx(0.75 * 0.6, abs=0.03)
    assert seen["colour"] / 4000 == pytest.approx(0.75 * 0.5, abs=0.03)


def test_a_vague_template_names_the_background_more_often_than_not() -> None:
    rng = np.random.default_rng(0)
    named = sum("{background}" in vague_template(rng) for _ in range(2000))
    assert named / 2000 == pytest.approx(0.6, abs=0.04)
