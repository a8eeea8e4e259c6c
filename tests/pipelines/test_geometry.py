"""Sizes of runs of the published models: what is asked for, what comes back, what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError
from cogworks.pipelines.geometry import MAX_FRAMES, decoded_frames, geometry, nearest_frames


@pytest.mark.parametrize(
    ("name", "asked", "latent_frames", "pad", "rows", "columns"),
    [
        ("cogvideox-2b", (None, None, None), 13, 0, 60, 90),
        ("cogvideox-5b", (480, 720, 17), 5, 0, 60, 90),
        ("cogvideox-5b", (768, 480, 8), 2, 0, 96, 60),
        ("cogvideox-5b-i2v", (480, 720, 49), 13, 0, 60, 90),
        ("cogvideox1.5-5b", (None, None, None), 22, 1, 96, 170),
        ("cogvideox1.5-5b", (768, 1360, 161), 42, 1, 96, 170),
        ("cogvideox1.5-5b", (768, 1360, 80), 20, 0, 96, 170),
        ("cogvideox1.5-5b-i2v", (768, 768, 1), 2, 1, 96, 96),
        ("tiny", (None, None, None), 5, 0, 8, 8),
    ],
)
def test_published_sizes(
    name: str, asked: tuple[int | None, int | None, int | None], latent_frames: int, pad: int, rows: int, columns: int
) -> None:
    size = geometry(VARIANTS[name], *asked)
    assert (size.latent_frames, size.pad, size.rows, size.columns) == (latent_frames, pad, rows, columns)
    assert decoded_frames(size.num_frames, 4) == size.num_frames
    assert size.latent_frames % VARIANTS[name].transformer.patch_size[0] == 0


@pytest.mark.parametrize("asked", [(480, 704, 49), (768, 1360, 49), (480, 720, 17)])
def test_a_learned_table_fixes_the_size(asked: tuple[int, int, int]) -> None:
    with pytest.raises(RequestError, match="works at 720x480 with 49 frames alone"):
        geometry(VARIANTS["cogvideox-5b-i2v"], *asked)


@given(st.integers(1, 400))
def test_another_count_names_the_nearest_legal_one(num_frames: int) -> None:
    """Nearest among 1, 8k and 8k + 1: never more than four away."""
    variant = VARIANTS["cogvideox-5b"]
    if num_frames == 1 or num_frames % 8 in (0, 1):
        assert geometry(variant, None, None, num_frames).num_frames == num_frames
        return
    with pytest.raises(RequestError, match=rf"got {num_frames}; the nearest is \d+") as caught:
        geometry(variant, None, None, num_frames)
    nearest = int(str(caught.value).rsplit(" ", 1)[1])
    assert geometry(variant, None, None, nearest).num_frames == nearest
    assert abs(nearest - num_frames) <= 4


@given(st.sampled_from(["cogvideox-5b", "cogvideox1.5-5b"]), st.integers(1, 200))
def test_as_much_of_a_video_as_can_be_used(name: str, available: int) -> None:
    """The largest count up to `available` that comes back whole and whose latents the patch divides."""
    variant = VARIANTS[name]
    patch = variant.transformer.patch_size[0]
    usable = [n for n in range(1, available + 1) if decoded_frames(n, 4) == n and math.ceil(n / 4) % patch == 0]
    if not usable:
        with pytest.raises(RequestError, match="at least 8 frames"):
            geometry(variant, None, None, None, video_frames=available)
        return
    size = geometry(variant, None, None, None, video_frames=available)
    assert (size.num_frames, size.pad) == (usable[-1], 0)
    assert geometry(variant, None, None, usable[0], video_frames=available).num_frames == usable[0]


def test_more_frames_than_the_video_has_are_refused() -> None:
    with pytest.raises(RequestError, match="has 10 frames, and 49 were asked for"):
        geometry(VARIANTS["cogvideox-5b"], None, None, 49, video_frames=10)


@pytest.mark.parametrize("height", [-16, 0, 8, 100, 481])
def test_sides_are_multiples_of_sixteen(height: int) -> None:
    with pytest.raises(RequestError, match=rf"height must be a positive multiple of 16, got {height}; the nearest is"):
        geometry(VARIANTS["cogvideox-2b"], height, None, None)


@given(st.sampled_from(["cogvideox-5b", "cogvideox1.5-5b", "tiny"]), st.floats(0.01, 500))
def test_a_length_in_seconds_becomes_the_next_legal_count(name: str, wanted: float) -> None:
    variant = VARIANTS[name]
    found = nearest_frames(variant, wanted)
    assert geometry(variant, None, None, found).num_frames == found
    assert wanted - 1e-6 <= found < wanted + 8


@pytest.mark.parametrize(
    ("name", "wanted", "found"),
    [
        ("cogvideox-5b", 0.1, 1),
        ("cogvideox-5b", 6 * 8, 48),
        ("cogvideox-5b", 2.4 * 10, 24),
        ("cogvideox-5b", 48.5, 49),
        ("cogvideox1.5-5b", 5 * 16, 80),
        ("cogvideox-5b-i2v", 8.0, 49),
    ],
)
def test_lengths_of_published_models(name: str, wanted: float, found: int) -> None:
    assert nearest_frames(VARIANTS[name], wanted) == found


@pytest.mark.parametrize(
    ("name", "wanted", "sentence"),
    [
        ("tiny", 0.0, "positive length, got 0 frames"),
        ("tiny", -3.0, "positive length, got -3 frames"),
        ("tiny", float("inf"), "positive length, got inf frames"),
        ("tiny", float("nan"), "positive length, got nan frames"),
        ("tiny", 1e12, f"tiny makes at most {MAX_FRAMES} frames, got 1000000000000"),
        ("cogvideox-5b-i2v", 50.0, "cogvideox-5b-i2v makes at most 49 frames, got 50"),
    ],
)
def test_lengths_that_no_model_makes(name: str, wanted: float, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        nearest_frames(VARIANTS[name], wanted)
