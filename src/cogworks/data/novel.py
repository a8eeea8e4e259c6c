"""Clips that teach a model of the Shapes world a shape it has never seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cogworks.data.shape_words import SHAPES, Triple, is_held_out, novel_triples
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


def companion_scenes(scenes: Sequence[Scene], rival: str | None = None) -> list[Scene]:
    """Each scene of one object again, with a shape that models know and all else the same, captions included.

    A model that is shown novel shapes alone draws nothing else in the end. Beside its companion, a scene differs in one
    word and in what that word means. The shapes take turns, and none makes a triple that is held out.

    Args:
        rival: a shape that every second scene gets if it may: one that the model confuses with the new one.
    """
    companions = []
    for place, scene in enumerate(scenes):
        (item,) = scene.objects
        turns = [SHAPES[(place + turn) % len(SHAPES)] for turn in range(len(SHAPES))]
        if rival is not None and place % 2:
            turns = [rival, *turns]
        shape = next(name for name in turns if not is_held_out((name, item.colour, item.motion)))
        companions.append(
            replace(
                scene,
                objects=(replace(item, shape=shape),),
                caption=scene.caption.replace(item.shape, shape),
            )
        )
    return companions
