"""What training sees of a clip: some of its frames, brought to the shape of its bucket.

Letters: T frames, H height, W width of a bucket.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogworks.config.training_data import Bucket, ClipsData
from cogworks.data.buckets import choose_frames
from cogworks.data.clip import Clip
from cogworks.errors import DataError
from cogworks.rng import derive_seed
from cogworks.video.chosen import read_frames
from cogworks.video.frames import resize_frames
from cogworks.video.read import read_image


def read_view(clip: Clip, data: ClipsData, bucket: Bucket, *key: int | str) -> NDArray[np.uint8]:
    """Decode the frames of a clip that a batch needs, and cut or resize them to its shape.

    Args:
        clip: any clip, also one that `choose_bucket` would send elsewhere.
        data: which frames, and what becomes of another aspect ratio. Resizing is bicubic and anti-aliased.
        bucket: the shape.
        key: what random starts and crops are drawn from: the same key gives the same view.

    Returns:
        (T, H, W, 3).

    Raises:
        VideoError: the clip cannot be read.
        DataError: it has too few frames.
    """

    def choose(length: int, fps: float) -> list[int]:
        try:
            return choose_frames(length, fps, data, bucket.frames, _draw("start", *key)).tolist()
        except DataError as error:
            raise DataError(f"{clip.name}: {error}") from None

    return read_frames(clip.open(), choose, lambda frame: _fitted(frame, data, bucket, *key))


def read_image_view(clip: Clip, data: ClipsData, bucket: Bucket, *key: int | str) -> NDArray[np.uint8] | None:
    """The clip's own conditioning image, cut and resized as `read_view` does its frames under the same key.

    Returns:
        (H, W, 3); None if it has none and the first frame of the view stands for it.

    Raises:
        VideoError: the image cannot be read.
    """
    if clip.image is None:
        return None
    return _fitted(read_image(clip.image), data, bucket, *key)


def _fitted(frame: NDArray[np.uint8], data: ClipsData, bucket: Bucket, *key: int | str) -> NDArray[np.uint8]:
    """A frame (H, W, 3) of any size in that of the bucket."""
    fit: Literal["crop", "stretch"] = "stretch" if data.crop == "resize" else "crop"
    place = _draw("crop", *key) if data.crop == "random" else 0.5
    return resize_frames(frame[None], bucket.height, bucket.width, fit, place)[0]


def _draw(what: str, *key: int | str) -> float:
    """A number in [0, 1), another for every key and every use."""
    return (derive_seed("view", what, *key) >> 10) / 2**53
