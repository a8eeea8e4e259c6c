"""Captions of the Shapes world: several phrasings of the same facts, all lower case.

A caption names every object's colour, shape and motion, the background, and sometimes the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cogworks.data.shape_words import ALL_SHAPES, BACKGROUNDS, COLOURS, MOTIONS

_VERB = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
    "grows": "grows",
    "shrinks": "shrinks",
    "orbits": "orbits clockwise",
}
_PARTICIPLE = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "still": "staying still",
    "grows": "growing",
    "shrinks": "shrinking",
    "orbits": "orbiting clockwise",
}
_MOTION_OF_WORD = {
    **{phrase.split()[-1]: motion for motion, phrase in (*_VERB.items(), *_PARTICIPLE.items())},
    "clockwise": "orbits",
}

# {verbs}: "a red circle moves right"; {participles}: "... moving right"; {relatives}: "... that moves right".
TEMPLATES: tuple[str, ...] = (
    "{verbs} on a {background} background",
    "on a {background} background, {verbs}",
    "{participles}, {background} background",
    "{verbs}, the background is {background}",
    "a {background} background with {participles}",
    "{relatives} on {background}",
    "video of {participles} against a {background} background",
)


@dataclass(frozen=True)
class ObjectWords:
    """What a caption says of one object; `size` is "small" or "large"; it and `colour` are None when left unsaid."""

    shape: str
    colour: str | None
    motion: str
    size: str | None = None


@dataclass(frozen=True)
class CaptionFacts:
    """What a caption says."""

    objects: tuple[ObjectWords, ...]
    background: str


def write_caption(objects: Sequence[ObjectWords], background: str, template: str = TEMPLATES[0]) -> str:
    """The caption of `objects` on `background` in a form like those in `TEMPLATES`; objects are joined with "and"."""
    verbs = " and ".join(f"{_noun(words)} {_VERB[words.motion]}" for words in objects)
    participles = " and ".join(f"{_noun(words)} {_PARTICIPLE[words.motion]}" for words in objects)
    relatives = " and ".join(f"{_noun(words)} that {_VERB[words.motion]}" for words in objects)
    return template.format(verbs=verbs, participles=participles, relatives=relatives, background=background)


def canonical_caption(shape: str, colour: str, motion: str, background: str) -> str:
    """The first phrasing, for example "a red circle moves right on a black background"."""
    return write_caption([ObjectWords(shape, colour, motion)], background)


def parse_caption(caption: str) -> CaptionFacts:
    """Read back what a caption of this world says, whichever its phrasing.

    Raises:
        ValueError: the caption does not name one background, and one colour, shape and motion for each object.
    """
    words = caption.lower().replace(",", " ").split()
    backgrounds = [word for word in words if word in BACKGROUNDS]
    colours = [word for word in words if word in COLOURS]
    shapes = [word for word in words if word in ALL_SHAPES]
    motions = [_MOTION_OF_WORD[word] for word in words if word in _MOTION_OF_WORD]
    sizes = [word for word in words if word in ("small", "large")]
    complete = len(backgrounds) == 1 and shapes and len(shapes) == len(colours) == len(motions)
    if not complete or len(sizes) not in (0, len(shapes)):
        raise ValueError(
            f"not a caption of the Shapes world: {caption!r}; name one background ({', '.join(BACKGROUNDS)}) and, for "
            f"each object, a colour ({', '.join(COLOURS)}), a shape ({', '.join(ALL_SHAPES)}) and a motion "
            f"({', '.join(MOTIONS)}), for example {canonical_caption('circle', 'red', 'right', 'black')!r}"
        )
    said_sizes: list[str | None] = [*sizes] or [None] * len(shapes)
    objects = zip(shapes, colours, motions, said_sizes, strict=True)
    return CaptionFacts(tuple(ObjectWords(*facts) for facts in objects), backgrounds[0])


def word_owners(caption: str, objects: Sequence[ObjectWords]) -> list[int | None]:
    """For each word of a caption that `write_caption` made: the number of the object it speaks of, None if of none.

    Raises:
        ValueError: the caption does not speak of these objects in this order.
    """
    words = [word.rstrip(",") for word in caption.split()]
    owners: list[int | None] = [None] * len(words)
    at = 0
    for number, item in enumerate(objects):
        noun = _noun(item).split()
        while words[at : at + len(noun)] != noun:
            at += 1
            if at >= len(words):
                raise ValueError(f"{caption!r} does not speak of {' '.join(noun)!r} where object {number} is due")
        last = next(i for i in range(at, len(words)) if _MOTION_OF_WORD.get(words[i]) == item.motion)
        owners[at : last + 1] = [number] * (last + 1 - at)
        at = last + 1
    return owners


def _noun(words: ObjectWords) -> str:
    noun = " ".join(word for word in (words.size, words.colour, words.shape) if word)
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
