"""The cases of image to video: a committed list, held out, with images that show what the prompt says."""

from __future__ import annotations

import numpy as np
import pytest

from cogworks.data.captions import parse_caption
from cogworks.data.shapes import held_out_triples, render_scene
from cogworks.evaluation.figures.metrics import psnr
from cogworks.evaluation.shapes.image_cases import IMAGE_KINDS, image_cases, image_prompts, image_scenes
from cogworks.evaluation.shapes.oracle import read


def test_the_list_is_that_of_the_scenes() -> None:
    assert image_prompts() == [scene.caption for scene in image_scenes()]
    assert len(image_prompts()) == 100


def test_every_scene_shows_one_object_that_is_held_out() -> None:
    scenes = image_scenes()
    assert all(len(scene.objects) == 1 and scene.held_out for scene in scenes)
    assert len({scene.objects[0].triple for scene in scenes}) >= 0.9 * len(held_out_triples())


def test_numbers_seeds_and_words() -> None:
    cases = [case for kind in IMAGE_KINDS for case in image_cases(kind)]
    assert [case.number for case in cases] == list(range(1, 201))
    assert [case.seed for case in cases] == [*range(1, 101), *range(1, 101)]
    assert [case.group for case in cases] == ["rendered"] * 100 + ["foreign"] * 100
    assert [case.prompt for case in cases] == 2 * image_prompts()
    assert all(case.asked == parse_caption(case.prompt) for case in cases)


def test_images_show_the_object_and_differ_by_who_drew_them() -> None:
    for ours, theirs in zip(image_cases("rendered"), image_cases("foreign"), strict=True):
        assert ours.image is not None
        assert theirs.image is not None
        assert ours.asked is not None
        assert not np.array_equal(ours.image, theirs.image)
        assert psnr(ours.image, theirs.image) > 30
        (item,) = ours.asked.objects
        for image in (ours.image, theirs.image):
            seen = read(image[None])
            assert (seen.shape, seen.colour, seen.background) == (item.shape, item.colour, ours.asked.background)


def test_a_rendered_image_is_the_first_frame_of_the_clip_at_any_size() -> None:
    scene, case = image_scenes()[3], image_cases("rendered", 48, 80)[3]
    np.testing.assert_array_equal(case.image, render_scene(scene, 48, 80, 17, 8)[0])


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="rendered, foreign"):
        image_cases("drawn")  # type: ignore[arg-type]
