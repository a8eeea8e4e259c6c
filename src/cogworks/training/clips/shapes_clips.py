"""The training clips of the Shapes world, and what a recipe mixes among them.

Letters: T frames, H W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cogworks.config.training_data import ShapesData
from cogworks.data.captions import ObjectWords, write_caption
from cogworks.data.pictures import render_picture_clip
from cogworks.data.shape_words import Triple
from cogworks.data.shapes import Scene, draw_scene, draw_triples, render_scene
from cogworks.data.vague_captions import foreign_noun, vague_template, vague_words
from cogworks.rng import derive_seed

FOREIGN_CAPTION = 0.5  # of the clips of pictures; the caption of the others tells of a scene that is not there


def shapes_clip(data: ShapesData, index: int) -> tuple[NDArray[np.uint8], str]:
    """Frames (T, H, W, 3) and caption of training clip number `index`."""
    scene = _scene(data, index)
    if _is_picture(data, index):
        motion = scene.objects[0].motion
        frames = render_picture_clip(data.seed, index, data.size, data.size, data.frames, data.fps, motion)
    else:
        frames = render_scene(scene, data.size, data.size, data.frames, data.fps)
    return frames, _caption(data, index, scene)


def shapes_caption(data: ShapesData, index: int) -> str:
    """The caption of training clip number `index`, without its frames."""
    return _caption(data, index, _scene(data, index))


def _caption(data: ShapesData, index: int, scene: Scene) -> str:
    rng = _rng(data, index, "caption")
    if _is_picture(data, index) and rng.random() < FOREIGN_CAPTION:
        return write_caption([ObjectWords(foreign_noun(rng), None, scene.objects[0].motion)], "", "{verbs}")
    if rng.random() >= data.vague_captions:
        return scene.caption
    said = [vague_words(ObjectWords(*item.triple), rng) for item in scene.objects]
    return write_caption(said, scene.background, vague_template(rng))


def clip_triples(data: ShapesData, index: int) -> tuple[Triple, ...]:
    """What training clip number `index` shows, or its caption may name, in a third of the time of `shapes_clip`."""
    num_objects = 1 if _is_picture(data, index) else None
    return draw_triples(data.seed, index, split="train", num_objects=num_objects, two_objects=data.two_objects)


def _scene(data: ShapesData, index: int) -> Scene:
    num_objects = 1 if _is_picture(data, index) else None  # a picture has one motion
    return draw_scene(data.seed, index, split="train", num_objects=num_objects, two_objects=data.two_objects)


def _is_picture(data: ShapesData, index: int) -> bool:
    return data.pictures > 0 and bool(_rng(data, index, "picture").random() < data.pictures)


def _rng(data: ShapesData, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed("shapes clip", data.seed, index, purpose))
