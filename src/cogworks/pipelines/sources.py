"""The image or video that a run begins from, in the size of the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cogworks.pipelines.geometry import Geometry
from cogworks.video import Video, resize_frames
from cogworks.video.frames import Fit

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

_DONE = {"crop": "its sides are cut", "pad": "black sides are added", "stretch": "it is stretched"}


def source_frames(
    image: np.ndarray | Image | None, video: Video | None, size: Geometry, fit: Fit
) -> NDArray[np.uint8] | None:
    """Frames (T, H, W, 3) of what a run begins from, or None where there is nothing.

    Where the aspect is not that of the run, what `fit` does about it is announced.

    Raises:
        VideoError: `image` is no picture, or `fit` is unknown.
    """
    if image is not None:
        frames = (image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB")))[None]
    elif video is not None:
        frames = video.frames[: size.num_frames]
    else:
        return None
    resized = resize_frames(frames, size.height, size.width, fit=fit)
    height, width = frames.shape[1:3]
    scale = max(size.height / height, size.width / width)
    if max(height * scale - size.height, width * scale - size.width) > 1:
        name = "image" if video is None else "video"
        log.info("the %s is %dx%d and the result %dx%d: %s", name, width, height, size.width, size.height, _DONE[fit])
    return resized
