"""The Shapes world keeps its promises: determinism, splits, geometry, captions that are true and readable."""

from __future__ import annotations

import itertools
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from cogworks.data.captions import TEMPLATES, ObjectWords, canonical_caption, parse_caption, write_caption
from cogworks.data.shape_words import all_triples, backgrounds_for, train_triples
from cogworks.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    NOVEL_SHAPES,
    SHAPES,
    Scene,
    SceneObject,
    distinguishable,
    draw_scene,
    held_out_triples,
    render,
    render_scene,
)


def one_object(shape: str = "circle", motion: str = "still", radius: float = 16.0, **fields: object) -> Scene:
    item = SceneObject(shape, "white", motion, "large", fields.pop("centre", (0.0, 0.0)), radius, **fields)  # type: ignore[arg-type]
    return Scene((item,), "black", "")


def coverage(scene: Scene, size: int = 64, num_frames: int = 17, fps: float = 8.0) -> np.ndarray:
    """(T, H, W) share of each pixel that the white object covers."""
    return render_scene(scene, size, size, num_frames, fps)[..., 0] / 245.0


def centroids(cover: np.ndarray) -> np.ndarray:
    """(T, 2) x, y in pixels from the middle of the frame."""
    size = cover.shape[-1]
    axis = np.arange(0.5, size) - size / 2
    weight = cover.sum((1, 2))
    return np.stack([(cover * axis).sum((1, 2)) / weight, (cover * axis[:, None]).sum((1, 2)) / weight], 1)


def test_same_key_same_clip_and_other_key_other_clip() -> None:
    frames, caption = render(3, 5, 64, 9, 8)
    again, same_caption = render(3, 5, 64, 9, 8)
    np.testing.assert_array_equal(frames, again)
    assert caption == same_caption
    assert (frames.dtype, frames.shape) == (np.uint8, (9, 64, 64, 3))
    assert draw_scene(3, 6) != draw_scene(3, 5) != draw_scene(4, 5)


def test_a_shorter_or_faster_clip_samples_the_same_function() -> None:
    scene = draw_scene(0, 1)
    long = render_scene(scene, 64, 64, 33, 16)
    np.testing.assert_array_equal(long[::2], render_scene(scene, 64, 64, 17, 8))
    np.testing.assert_array_equal(long[:7], render_scene(scene, 64, 64, 7, 16))


def test_other_sizes_show_the_same_scene() -> None:
    scene = draw_scene(0, 2, num_objects=1)
    small = render_scene(scene, 64, 64, 5, 8).astype(float)
    large = render_scene(scene, 128, 128, 5, 8).astype(float).reshape(5, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - large).mean() < 1.5  # only anti-aliasing differs
    wide = render_scene(scene, 64, 96, 5, 8)
    assert wide.shape == (5, 64, 96, 3)
    if scene.background != "gradient":
        np.testing.assert_array_equal(wide[:, :, 16:80], render_scene(scene, 64, 64, 5, 8))


@pytest.mark.parametrize("split", ["train", "held_out", "any"])
@pytest.mark.parametrize("num_objects", [1, 2])
def test_splits(split: str, num_objects: int) -> None:
    scenes = [draw_scene(1, index, split=split, num_objects=num_objects) for index in range(300)]  # type: ignore[arg-type]
    assert {len(scene.objects) for scene in scenes} == {num_objects}
    shares = sum(scene.held_out for scene in scenes) / len(scenes)
    if split == "any":
        assert 0 < shares < 0.4
    else:
        assert shares == (split == "held_out")


def test_two_objects_are_drawn_about_one_time_in_seven() -> None:
    counts = Counter(len(draw_scene(2, index).objects) for index in range(2000))
    assert 0.12 < counts[2] / 2000 < 0.18


def test_held_out_triples_are_a_fixed_even_tenth() -> None:
    held_out = held_out_triples()
    listed = resources.files("cogworks.data").joinpath("held_out_triples.txt").read_text().splitlines()
    assert sorted(held_out) == [tuple(line.split()) for line in listed]
    assert len(held_out) == 38
    assert len(all_triples()) == 384
    assert len(train_triples()) == 346
    for place, words in enumerate((SHAPES, COLOURS, MOTIONS)):
        counts = Counter(triple[place] for triple in held_out)
        assert set(counts) == set(words)
        assert max(counts.values()) <= -(-38 // len(words))


def test_training_shows_every_pair_of_words() -> None:
    for first, second in itertools.combinations(range(3), 2):
        pairs = [{(triple[first], triple[second]) for triple in source} for source in (train_triples(), all_triples())]
        assert pairs[0] == pairs[1]


def test_objects_can_be_told_from_their_background() -> None:
    pairs = {(colour, name) for colour in COLOURS for name in BACKGROUNDS if not distinguishable(colour, name)}
    assert pairs == {("white", "beige")}
    for index in range(400):
        scene = draw_scene(5, index)
        assert all(distinguishable(item.colour, scene.background) for item in scene.objects)
    assert backgrounds_for("white", "red") == ("black", "gray", "navy", "gradient")


@pytest.mark.parametrize("motion", ["left", "right", "up", "down"])
def test_travel_is_11_pixels_a_second_through_the_centre_at_one_second(motion: str) -> None:
    path = centroids(coverage(one_object(motion=motion, radius=12, centre=(2.0, -3.0))))
    direction = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[motion]
    expected = np.array([2.0, -3.0]) + np.outer(11 * (np.arange(17) / 8 - 1), direction)
    np.testing.assert_allclose(path, expected, atol=0.05)


def test_travel_comes_back_on_the_other_side() -> None:
    cover = coverage(one_object(motion="right", radius=12), num_frames=80)
    area = cover.sum((1, 2))
    hidden = np.flatnonzero(area < 1)
    assert len(hidden)
    path = centroids(cover[hidden[-1] + 2 :])[:, 0]
    assert path[0] < -20
    assert (np.diff(path[:20]) > 0).all()


def test_orbit_is_clockwise_on_screen_and_12_pixels_wide() -> None:
    path = centroids(coverage(one_object(motion="orbits", radius=12, phase=0.3)))
    np.testing.assert_allclose(np.hypot(*path.T), 12, atol=0.1)
    x, y = path.T
    turning = x[:-1] * y[1:] - y[:-1] * x[1:]  # positive is clockwise where y points down
    assert (turning > 0).all()
    assert np.unwrap(np.arctan2(y, x))[-1] - np.arctan2(y[0], x[0]) == pytest.approx(2 * np.pi * 2 / 2.25, abs=0.02)


@pytest.mark.parametrize(("motion", "start", "end"), [("grows", 0.62, 1.25), ("shrinks", 1.25, 0.62)])
def test_growth_runs_two_seconds_and_holds(motion: str, start: float, end: float) -> None:
    area = coverage(one_object(motion=motion, radius=12), num_frames=25).sum((1, 2))
    radius = np.sqrt(area / np.pi)
    np.testing.assert_allclose([radius[0], radius[16], radius[24]], [12 * start, 12 * end, 12 * end], rtol=0.01)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi),
        ("square", 1.7**2),
        ("triangle", 1.8**2 / np.sqrt(3)),
        ("star", 5 * 0.42 * 1.1**2 * np.sin(np.pi / 5)),
        ("diamond", 2 * 0.7 * 1.05),
        ("ring", np.pi * (1 - 0.55**2)),
    ],
)
def test_area_and_reach_of_each_shape(shape: str, area: float) -> None:
    cover = coverage(one_object(shape=shape, radius=24), size=256, num_frames=1)[0]
    radius = 24 * 256 / 64
    assert cover.sum() / radius**2 == pytest.approx(area, rel=0.005)
    rows, columns = np.nonzero(cover > 0.5)
    for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
        assert (low + high) / 2 == pytest.approx(127.5, abs=1.5)  # the box is centred
        assert high - 127.5 < 1.1 * radius


def test_silhouettes_differ_clearly_at_the_small_radius() -> None:
    covers = {shape: coverage(one_object(shape=shape, radius=12), num_frames=1)[0] for shape in SHAPES + NOVEL_SHAPES}
    for a, b in itertools.combinations(covers, 2):
        overlap = np.minimum(covers[a], covers[b]).sum() / np.maximum(covers[a], covers[b]).sum()
        assert overlap < 0.86, (a, b)


def test_two_objects_do_not_overlap_in_the_default_clip() -> None:
    for index in range(60):
        scene = draw_scene(9, index, num_objects=2)
        first, second = (
            render_scene(Scene((SceneObject(**{**vars(item), "colour": "white"}),), "black", ""), 64, 64, 17, 8)
            for item in scene.objects
        )
        assert not ((first > 0) & (second > 0)).any()
        assert scene.objects[0].colour != scene.objects[1].colour


def test_captions_say_what_the_scene_shows() -> None:
    seen = set()
    for index in range(500):
        scene = draw_scene(4, index, split="any")
        facts = parse_caption(scene.caption)
        assert facts.background == scene.background
        assert [(words.shape, words.colour, words.motion) for words in facts.objects] == [
            item.triple for item in scene.objects
        ]
        assert all(words.size in (None, item.size) for words, item in zip(facts.objects, scene.objects, strict=True))
        assert scene.caption == scene.caption.lower()
        if len(scene.objects) == 1:
            assert len(scene.caption.split()) < 16
        seen.add(scene.caption.split()[0] + scene.caption.split()[-1])
    assert len(seen) > 10


def test_captions_by_example() -> None:
    assert canonical_caption("circle", "red", "right", "black") == "a red circle moves right on a black background"
    assert write_caption([ObjectWords("star", "orange", "orbits", "large")], "navy", TEMPLATES[2]) == (
        "a large orange star orbiting clockwise, navy background"
    )
    two = [ObjectWords("ring", "orange", "still"), ObjectWords("square", "blue", "grows")]
    assert (
        write_caption(two, "gray", TEMPLATES[5])
        == "an orange ring that stays still and a blue square that grows on gray"
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_reads_back(template: str) -> None:
    for shape, colour, motion in all_triples():
        words = ObjectWords(shape, colour, motion)
        facts = parse_caption(write_caption([words], "beige", template))
        assert (facts.objects, facts.background) == ((words,), "beige")


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be"):
        draw_scene(0, 0, split="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_objects"):
        draw_scene(0, 0, num_objects=3)
    with pytest.raises(ValueError, match="must be positive"):
        render_scene(one_object(), 64, 64, 0, 8)
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption("a red circle on a black background")
