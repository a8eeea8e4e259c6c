"""Clips that teach a model of the Shapes world a shape it has never seen."""

from __future__ import annotations

from collections import Counter

from cogworks.data.shape_words import Triple, novel_triples
from cogworks.data.shapes import Scene, draw_scene


def teaching_scenes(shape: str, number: int, seed: int) -> list[Scene]:
    """The first scenes of one object with a novel shape that show its taught triples evenly.

    A triple comes again when every other has come as often: 64 scenes show each of the 48 once or twice. No scene shows
    a triple that is held out.

    Args:
        number: how many scenes, 0 or more.
        seed: of the list that they are chosen from.

    Raises:
        ValueError: `shape` is not novel.
    """
    taught, _ = novel_triples(shape)
    shown: Counter[Triple] = Counter()
    chosen: list[Scene] = []
    index = 0
    while len(chosen) < number:
        scene = draw_scene(seed, index, num_objects=1, shape=shape)
        index += 1
        triple = scene.objects[0].triple
        if shown[triple] == len(chosen) // len(taught):
            shown[triple] += 1
            chosen.append(scene)
    return chosen
