"""Models without fault, and with a fault that is known: they render what a prompt of the Shapes world says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cogworks.data.captions import ObjectWords, parse_caption
from cogworks.data.shapes import Scene, SceneObject, render_scene
from cogworks.evaluation.case import Case, Frames


def show(objects: Sequence[ObjectWords], background: str, seed: int = 0) -> Frames:
    """(17, 64, 64, 3) of one object somewhere near the middle, or of two, each in its own half."""
    if len(objects) == 1:
        x, y = np.random.default_rng(seed).uniform(-4, 4, 2)
        (words,) = objects
        items = (SceneObject(words.shape, words.colour, words.motion, "large", (x, y), 16.0),)
    else:
        items = tuple(
            SceneObject(
                *(words.shape, words.colour, words.motion, "large", (place, 0.0), 10.0),
                speed=4.5 if words.motion in ("left", "right") else 11.0,
                orbit_radius=4.5,
            )
            for words, place in zip(objects, (-16.0, 16.0), strict=True)
        )
    return render_scene(Scene(items, background, ""), 64, 64, 17, 8)


def obedient(cases: Sequence[Case]) -> list[Frames]:
    """Shows what each prompt asks for."""
    made = []
    for case in cases:
        facts = parse_caption(case.prompt)
        made.append(show(facts.objects, facts.background, case.seed))
    return made
