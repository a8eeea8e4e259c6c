"""What a model cannot begin from, and which one can."""

from __future__ import annotations

import numpy as np
import pytest

from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError
from cogworks.pipelines.request import check_source
from cogworks.video import Video

IMAGE = np.zeros((64, 96, 3), dtype=np.uint8)
VIDEO = Video(np.zeros((9, 64, 96, 3), dtype=np.uint8), fps=8)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("cogvideox-5b", "cogvideox-5b-i2v begins from one"),
        ("cogvideox1.5-5b", "cogvideox1.5-5b-i2v begins from one"),
        ("cogvideox-2b", "cogvideox-5b-i2v, cogvideox1.5-5b-i2v and tiny-i2v begin from one"),
    ],
)
def test_an_image_for_a_text_to_video_model_names_the_right_one(name: str, other: str) -> None:
    with pytest.raises(RequestError, match=rf"^{name} is a text-to-video model and cannot .*; {other}$"):
        check_source(VARIANTS[name], IMAGE, None)
    check_source(VARIANTS[name], None, VIDEO)


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox1.5-5b"])
def test_no_image_for_an_image_to_video_model_names_the_right_one(name: str) -> None:
    with pytest.raises(RequestError, match=rf"^{name}-i2v is an image-to-video .*; {name} begins without one$"):
        check_source(VARIANTS[f"{name}-i2v"], None, None)
    check_source(VARIANTS[f"{name}-i2v"], IMAGE, None)


def test_what_is_no_image_and_no_video_is_told_how_to_become_one() -> None:
    with pytest.raises(RequestError, match=r"^image must be an array .*, got str; .*read_image reads a file$"):
        check_source(VARIANTS["tiny-i2v"], "first.png", None)
    with pytest.raises(RequestError, match=r"^video must be a cogworks.Video, got ndarray; .*Video\(frames, fps=8\)"):
        check_source(VARIANTS["tiny"], None, VIDEO.frames)
