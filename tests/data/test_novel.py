"""A novel shape can be asked for, and is nowhere that it was not asked for."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cogworks.data.captions import TEMPLATES, ObjectWords, parse_caption, write_caption
from cogworks.data.novel import companion_scenes, teaching_scenes
from cogworks.data.shape_outlines import REACH
from cogworks.data.shape_words import ALL_SHAPES, MOTIONS, all_triples, held_out_triples, is_held_out, novel_triples
from cogworks.data.shapes import (
    COLOURS,
    NOVEL_SHAPES,
    SHAPES,
    Scene,
    SceneObject,
    draw_scene,
    render,
    render_scene,
)


def clips_hash(**options: object) -> str:
    digest = hashlib.sha256()
    for index in range(8):
        frames, caption = render(0, index, 64, 17, 8, **options)  # type: ignore[arg-type]
        digest.update(frames.tobytes() + caption.encode())
    return digest.hexdigest()


def test_what_bundled_models_were_trained_on_is_what_it_was() -> None:
    """Hashes of before there was any novel shape."""
    scenes = hashlib.sha256("".join(repr(draw_scene(0, index)) for index in range(64)).encode()).hexdigest()
    assert scenes == "e6b71fc5d4333a6f4dfc21c90d2e17870e7e4bc21e1753086b611ccfcc59606a"
    assert clips_hash() == "57a4dbe8b747663af77008d738e9aa5d6e0fd6f7b29c42013bad713bb2bf6691"
    two = clips_hash(split="any", num_objects=2)
    assert two == "7368acd8bf4cccceac6ad48ef7928b24206d5315516fded9ba8e54ff7606ac3b"
    words = (all_triples(), sorted(held_out_triples()), tuple(t for t in all_triples() if not is_held_out(t)), SHAPES)
    assert hashlib.sha256(repr(words).encode()).hexdigest() == (
        "98455b752cea5511f7069119a4c9f1490eb4a5094695dc824fd3fac59a5d988e"
    )


def test_a_novel_shape_is_drawn_only_if_asked_for() -> None:
    assert not set(NOVEL_SHAPES) & set(SHAPES)
    scenes = [draw_scene(1, index, split="any") for index in range(1000)]
    assert {item.shape for scene in scenes for item in scene.objects} == set(SHAPES)
    for shape, num_objects in itertools.product(ALL_SHAPES, (1, 2)):
        asked = [draw_scene(1, index, num_objects=num_objects, shape=shape) for index in range(30)]
        assert all(shape in [item.shape for item in scene.objects] for scene in asked)
        assert all(len(scene.objects) == num_objects for scene in asked)
        assert not any(scene.held_out for scene in asked)
    with pytest.raises(ValueError, match=r"shape must be one of circle, .*, heart"):
        draw_scene(0, 0, shape="moon")


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_splits_of_a_shape_that_was_asked_for(shape: str) -> None:
    held_out = [draw_scene(2, index, split="held_out", num_objects=1, shape=shape) for index in range(50)]
    assert all(scene.held_out and scene.objects[0].shape == shape for scene in held_out)
    shares = [draw_scene(2, index, split="any", num_objects=1, shape=shape).held_out for index in range(200)]
    assert 0 < sum(shares) < 100


def test_every_word_is_held_out_twice_with_a_heart() -> None:
    taught, held_out = novel_triples("heart")
    assert (len(taught), len(held_out)) == (48, 16)
    assert set(taught) | set(held_out) == set(itertools.product(["heart"], COLOURS, MOTIONS))
    for place in (1, 2):
        assert set(Counter(triple[place] for triple in held_out).values()) == {2}
    with pytest.raises(ValueError, match="'star' is not a novel shape"):
        novel_triples("star")


def test_teaching_scenes_show_each_taught_triple_evenly() -> None:
    scenes = teaching_scenes("heart", 64, 0)
    shown = Counter(scene.objects[0].triple for scene in scenes)
    assert set(shown) == set(novel_triples("heart")[0])
    assert set(shown.values()) == {1, 2}
    assert len(set(scenes)) == 64
    assert scenes[:10] == teaching_scenes("heart", 10, 0)
    assert scenes != teaching_scenes("heart", 64, 1)
    assert teaching_scenes("heart", 0, 0) == []


def test_a_heart_has_its_area_its_place_and_its_outline() -> None:
    radius, size = 96, 256
    heart = SceneObject("heart", "white", "still", "large", (0.0, 0.0), radius / 4)
    cover = render_scene(Scene((heart,), "black", ""), size, size, 1, 8)[0, ..., 0] / 245
    diagonal = 1.75
    assert cover.sum() / radius**2 == pytest.approx(diagonal**2 * (0.5 + np.pi / 8), rel=0.005)
    rows, columns = np.nonzero(cover > 0.5)
    for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
        assert (low + high) / 2 == pytest.approx(127.5, abs=1.5)  # the box is centred
        assert high - 127.5 < REACH * radius
    np.testing.assert_allclose(cover, cover[:, ::-1], atol=1e-6)
    assert (cover[rows.max() - 2] > 0).sum() < 9  # ends in a tip
    assert (np.diff(cover[rows.min() + 8] > 0.5) != 0).sum() == 4  # and begins with two lobes


@pytest.mark.parametrize("template", TEMPLATES)
def test_captions_of_hearts_read_back(template: str) -> None:
    for triple in novel_triples("heart")[0]:
        words = ObjectWords(*triple, size="small")
        assert parse_caption(write_caption([words], "navy", template)).objects == (words,)


def test_companions_differ_in_the_shape_alone() -> None:
    scenes = teaching_scenes("heart", 64, 0)
    companions = companion_scenes(scenes)
    shapes = Counter(scene.objects[0].shape for scene in companions)
    assert set(shapes) == set(SHAPES)
    assert min(shapes.values()) >= 8
    for scene, companion in zip(scenes, companions, strict=True):
        (heart,), (known,) = scene.objects, companion.objects
        assert replace(known, shape="heart") == heart
        assert not companion.held_out
        assert companion.background == scene.background
        facts = parse_caption(companion.caption)
        assert facts.objects[0].shape == known.shape
        assert parse_caption(scene.caption).objects[0] == replace(facts.objects[0], shape="heart")


def test_every_second_companion_may_be_a_rival() -> None:
    scenes = teaching_scenes("heart", 64, 0)
    shapes = [scene.objects[0].shape for scene in companion_scenes(scenes, rival="square")]
    assert shapes[1::2].count("square") >= 26  # of 32, unless that triple is held out
    assert not any(scene.held_out for scene in companion_scenes(scenes, rival="square"))
