"""Pictures that Pillow draws: true to the scene, and not our own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cogworks.data.shape_words import ALL_SHAPES, BACKGROUNDS
from cogworks.data.shapes import Scene, SceneObject, draw_scene, render_scene
from cogworks.evaluation.figures.metrics import psnr
from cogworks.evaluation.shapes.foreign import draw
from cogworks.evaluation.shapes.oracle import read


def rendered(scene: Scene, height: int = 64, width: int = 64) -> np.ndarray:
    return render_scene(scene, height, width, num_frames=1, fps=1)[0]


def one_object(shape: str, background: str = "black", **fields: object) -> Scene:
    item = SceneObject(shape, "red", "still", "large", (0.0, 0.0), 16.0)
    return Scene((replace(item, **fields),), background, "")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_oracle_reads_shape_and_colour_of_500() -> None:
    wrong = 0
    for index in range(500):
        scene = draw_scene(77, index, split="any", num_objects=1)
        seen = read(draw(scene)[None])
        (item,) = scene.objects
        wrong += (seen.shape, seen.colour, seen.background) != (item.shape, item.colour, scene.background)
    assert wrong <= 5


def test_they_show_what_the_renderer_shows_and_are_not_the_same() -> None:
    ratios = []
    for index in range(60):
        scene = draw_scene(78, index, split="any")
        ratios.append(psnr(draw(scene), rendered(scene)))
    assert min(ratios) > 30
    assert max(ratios) < 60  # no picture is a copy: 50 dB is an error of less than one level


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_outlines_agree_with_those_of_the_world(shape: str) -> None:
    ours, theirs = (
        picture[..., 0] / 225.0
        for picture in (rendered(one_object(shape), 256, 256), draw(one_object(shape), 256, 256))
    )
    overlap = np.minimum(ours, theirs).sum() / np.maximum(ours, theirs).sum()
    assert overlap > 0.98
    shifted = np.roll(theirs, 2, axis=0)  # the comparison sees half a unit
    assert np.minimum(ours, shifted).sum() / np.maximum(ours, shifted).sum() < overlap - 0.02


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_are_the_palettes_own(background: str) -> None:
    scene = one_object("circle", background)
    ours, theirs = (picture[:, 0].astype(int) for picture in (rendered(scene), draw(scene)))
    assert np.abs(ours - theirs).max() <= 1  # rounding


def test_motion_places_the_object_where_it_begins() -> None:
    for fields in ({"motion": "left"}, {"motion": "orbits", "phase": 1.0}, {"motion": "shrinks"}, {"motion": "grows"}):
        scene = one_object("square", **fields)
        assert psnr(draw(scene), rendered(scene)) > 35
        assert psnr(draw(scene), rendered(one_object("square"))) < 25


def test_two_objects_and_other_sizes() -> None:
    scene = draw_scene(3, 1, num_objects=2)
    picture = draw(scene, 48, 96)
    assert (picture.shape, picture.dtype) == ((48, 96, 3), np.uint8)
    assert psnr(picture, rendered(scene, 48, 96)) > 28
    with pytest.raises(ValueError, match="must be positive"):
        draw(scene, 0, 64)
