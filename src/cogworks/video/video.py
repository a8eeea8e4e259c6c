"""The file-side type: `Video`, frames and their rate.

Letters: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.frames import check_frames
from cogworks.video.write import write_video


@dataclass(frozen=True, eq=False)
class Video:
    """Frames (T, H, W, 3), uint8 RGB, shown at `fps` frames a second. T is at least 1.

    `recipe` says how the video was made, in values JSON can hold, and travels with it into the file; it may be a
    function that makes them when they are needed.
    """

    frames: NDArray[np.uint8]
    fps: float
    recipe: Mapping[str, object] | Callable[[], Mapping[str, object]] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_frames(self.frames)
        if not 0 < self.fps < float("inf"):
            raise VideoError(f"a video needs a positive frame rate, got {self.fps} frames a second")

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.num_frames / self.fps

    def save(self, path: str | Path, metadata: Mapping[str, object] | None = None, *, replace: bool = False) -> None:
        """Write to `path`; its ending picks the format. See `cogworks.video.write_video`.

        Args:
            metadata: None writes `recipe`; {} writes none.
            replace: of a folder of frames: replace those in it.
        """
        if metadata is None:
            metadata = self.recipe() if callable(self.recipe) else self.recipe
        write_video(path, self, metadata, replace=replace)
