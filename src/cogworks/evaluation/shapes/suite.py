"""The suite of the Shapes world: prompts whose truth can be read from pixels, and the judge that reads it.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from cogworks.data.captions import CaptionFacts, ObjectWords, parse_caption
from cogworks.evaluation.case import Case, Frames, Outcome, Suite
from cogworks.evaluation.figures.metrics import first_frame_psnr
from cogworks.evaluation.shapes.image_cases import image_cases
from cogworks.evaluation.shapes.oracle import ATTRIBUTES, ObjectReading, read_objects
from cogworks.evaluation.shapes.prompts import evaluation_prompts, two_object_prompts

SHAPES = "shapes"  # name of the suite
ONE_OBJECT, TWO_OBJECTS = "one object", "two objects"
FIRST_FRAME = "first frame PSNR"
JUDGE_VERSION = 1  # another one reads the same pixels otherwise

_OF_AN_OBJECT = ("shape", "colour", "motion")


def shapes_suite(*, takes_image: bool) -> Suite:
    """The held-out prompts of text to video, or the held-out pictures and prompts of image to video."""
    cases = (*image_cases("rendered"), *image_cases("foreign")) if takes_image else text_cases()
    return Suite(SHAPES, cases, judge, _fingerprint(cases))


def text_cases() -> tuple[Case, ...]:
    """200 prompts that ask for one object, and 100 that ask for two."""
    ones = caption_cases(evaluation_prompts(), ONE_OBJECT)
    return (*ones, *caption_cases(two_object_prompts(), TWO_OBJECTS, first_number=len(ones) + 1))


def caption_cases(prompts: Sequence[str], group: str, *, first_number: int = 1) -> tuple[Case, ...]:
    """Cases from captions of the Shapes world; the seed of each video is the number of its line, from 1.

    Raises:
        ValueError: a prompt is no caption of the Shapes world, or asks for more than two objects.
    """
    cases = []
    for line, prompt in enumerate(prompts, start=1):
        asked = parse_caption(prompt)
        if len(asked.objects) > 2:
            raise ValueError(f"a clip of one or two objects can be read, but {prompt!r} asks for {len(asked.objects)}")
        cases.append(Case(first_number + line - 1, group, prompt, line, asked=asked))
    return tuple(cases)


def judge(case: Case, frames: Frames) -> Outcome:
    """Read a video and compare it with what its case asks for.

    Objects are matched by colour. One whose colour is not there counts as wrong in shape and motion too. A mark of two
    objects is right if it is right for both.

    Args:
        case: of one object or two.
        frames: (T, H, W, 3).

    Returns:
        The marks "shape", "colour", "motion" and "background"; the words behind them; and, where the case has an
        image, the measure "first frame PSNR" in dB.

    Raises:
        ValueError: the prompt is no caption of the Shapes world.
    """
    asked = case.asked or parse_caption(case.prompt)
    seen, background = read_objects(frames, len(asked.objects))
    words: dict[str, list[tuple[str, str | None]]] = {name: [] for name in _OF_AN_OBJECT}
    for wanted, found in _matched(asked, seen):
        for name in _OF_AN_OBJECT:
            words[name].append((getattr(wanted, name), getattr(found, name)))
    words["background"] = [(asked.background, background)]
    marks = {name: all(want == got for want, got in words[name]) for name in ATTRIBUTES}
    measures = {} if case.image is None else {FIRST_FRAME: first_frame_psnr(case.image, frames)}
    return Outcome(case.number, case.group, case.prompt, case.seed, marks, words, measures)


def _matched(asked: CaptionFacts, seen: Sequence[ObjectReading]) -> list[tuple[ObjectWords, ObjectReading]]:
    """Each object that is asked for beside the one of its colour; of one that is not there, the colour that is instead.

    A single object is compared as it is: what else could it be.
    """
    if len(asked.objects) == 1:
        return [(asked.objects[0], seen[0])]
    by_colour: dict[str | None, ObjectReading] = {item.colour: item for item in seen if item.colour is not None}
    wanted = {words.colour for words in asked.objects}
    instead = [colour for colour in by_colour if colour not in wanted]
    return [
        (words, by_colour.get(words.colour) or ObjectReading(None, instead.pop(0) if instead else None, None))
        for words in asked.objects
    ]


def _fingerprint(cases: Iterable[Case]) -> str:
    digest = hashlib.sha256(f"{SHAPES} {JUDGE_VERSION}\n".encode())
    for case in cases:
        asked = None if case.asked is None else asdict(case.asked)
        digest.update(f"{case.number}\0{case.group}\0{case.prompt}\0{case.seed}\0{asked}\n".encode())
        if case.image is not None:
            digest.update(str(case.image.shape).encode() + case.image.tobytes())
    return digest.hexdigest()
