"""Files that something cut, flipped or spliced: a video comes, or one sentence; nothing else, and soon."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cogworks.errors import VideoError
from cogworks.video import Video, read_image, read_metadata, read_video

NAMES = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip.png", "photo.png", "photo.jpg", "photo.tiff")


@cache
def whole() -> dict[str, bytes]:
    frames = np.zeros((5, 32, 48, 3), np.uint8) + np.array((12, 20, 70), np.uint8)
    for index in range(5):
        frames[index, 8:20, 3 * index : 3 * index + 12] = (225, 40, 40)
    files = {}
    with TemporaryDirectory() as folder:
        for name in NAMES:
            path = Path(folder, name)
            if name.startswith("clip"):
                Video(frames, 8).save(path, {"prompt": "a red square", "seed": 7})
            else:
                Image.fromarray(frames[0]).save(path)
            files[name] = path.read_bytes()
    return files


@st.composite
def mangled(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid file after one to three accidents, and the name it came under."""
    files = whole()
    name = draw(st.sampled_from(NAMES))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        accident = draw(st.sampled_from(("cut", "flip", "lose", "splice", "noise")))
        if accident == "cut":
            del data[place:]
        elif accident == "flip" and place < len(data):
            data[place] ^= draw(st.integers(1, 255))
        elif accident == "lose":
            del data[place : place + draw(st.integers(1, 200))]
        elif accident == "splice":
            other = files[draw(st.sampled_from(NAMES))]
            start = draw(st.integers(0, len(other) - 1))
            data[place:place] = other[start : start + draw(st.integers(1, 400))]
        elif accident == "noise":
            data[place:place] = draw(st.binary(min_size=1, max_size=64))
    return name, bytes(data)


@settings(max_examples=200, deadline=20_000, suppress_health_check=[HealthCheck.too_slow])
@given(mangled())
def test_a_mangled_file_is_read_or_explained(case: tuple[str, bytes]) -> None:
    name, data = case
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder, name)
        path.write_bytes(data)
        for read in (read_video, read_image, read_metadata):
            sentence = ""
            try:
                assert isinstance(read(path), Video | np.ndarray | dict)
            except VideoError as error:
                sentence = str(error)
            assert not sentence or name in sentence
            assert "\n" not in sentence


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    """The control: what is mangled above is readable before."""
    (tmp_path / name).write_bytes(whole()[name])
    if name in ("clip.mp4", "clip.webm", "clip.gif", "clip.webp"):
        assert read_video(tmp_path / name).num_frames == 5
    else:
        assert read_image(tmp_path / name).ndim == 3
