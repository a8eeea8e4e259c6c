"""Where clips that are seen again and again come from: files, or a number of clips of the Shapes world.

Letters: T frames, H W pixels.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cogworks.config.recipe import Recipe
from cogworks.config.training_data import Bucket, ClipsData, ShapesData
from cogworks.data.buckets import choose_bucket, why_no_bucket
from cogworks.data.clips import Clip, ClipFault, find_clips
from cogworks.data.views import read_image_view, read_view
from cogworks.errors import DataError
from cogworks.training.clips.shapes_clips import shapes_caption, shapes_clip
from cogworks.video.chosen import Extent

Frames = NDArray[np.uint8]


class ClipSource(Protocol):
    """Captioned clips by index. What it raises about a clip is a DataError or a VideoError."""

    @property
    def faults(self) -> tuple[ClipFault, ...]:
        """What cannot be used, found without looking into a clip."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def caption(self, index: int) -> str: ...

    def stamp(self, index: int) -> str:
        """Changes when the clip does, as far as can be seen without reading it."""

    def content(self, index: int) -> str:
        """A hash of all that decides what the clip shows."""

    def extent(self, index: int) -> Extent: ...

    def bucket(self, extent: Extent) -> Bucket:
        """The shape that a clip of this extent is brought to. Raises DataError if there is none."""

    def view(self, index: int, bucket: Bucket, *key: int | str) -> Frames:
        """(T, H, W, 3) frames in the shape of the bucket; what is random is drawn from `key`."""

    def image(self, index: int, bucket: Bucket, *key: int | str) -> Frames | None:
        """(H, W, 3) a conditioning image of its own; None if its first frame stands for it."""

    def fingerprint(self) -> str: ...


class ShapesSource:
    """The first `count` training clips of the Shapes world."""

    faults: tuple[ClipFault, ...] = ()

    def __init__(self, data: ShapesData, count: int) -> None:
        self.data = data
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"shapes/{self.data.seed}/{index}"

    def caption(self, index: int) -> str:
        return shapes_caption(self.data, index)

    def stamp(self, index: int) -> str:
        return self.content(index)

    def content(self, index: int) -> str:
        data = self.data
        return hash_of("shapes", data.seed, index, data.size, data.frames, data.fps, data.two_objects, data.pictures)

    def extent(self, index: int) -> Extent:
        return Extent(self.data.frames, self.data.size, self.data.size, self.data.fps)

    def bucket(self, extent: Extent) -> Bucket:
        return Bucket(extent.num_frames, extent.height, extent.width)

    def view(self, index: int, bucket: Bucket, *key: int | str) -> Frames:
        return shapes_clip(self.data, index)[0]

    def image(self, index: int, bucket: Bucket, *key: int | str) -> None:
        return None

    def fingerprint(self) -> str:
        return hash_of(self.data.model_dump_json(), self.count)


class FilesSource:
    """Clips from files. Raises DataError if there is none that can be used."""

    def __init__(self, data: ClipsData) -> None:
        self.data = data
        self.clips = find_clips(data.source)

    @property
    def faults(self) -> tuple[ClipFault, ...]:
        return self.clips.faults

    def __len__(self) -> int:
        return len(self.clips.items)

    def name(self, index: int) -> str:
        return self._clip(index).name

    def caption(self, index: int) -> str:
        return " ".join(part for part in (self.data.caption_prefix.strip(), self._clip(index).caption) if part)

    def stamp(self, index: int) -> str:
        clip = self._clip(index)
        files = [_file_stamp(path) for path in (clip.file, clip.image) if path is not None]
        return " ".join([*files, str(tuple(clip.span)) if clip.span else ""]).strip()

    def content(self, index: int) -> str:
        clip = self._clip(index)
        return clip.content_hash() if clip.image is None else hash_of(clip.content_hash(), _file_hash(clip.image))

    def extent(self, index: int) -> Extent:
        return self._clip(index).measure()

    def bucket(self, extent: Extent) -> Bucket:
        bucket = choose_bucket(extent.num_frames, extent.height, extent.width, extent.fps, self.data)
        if bucket is None:
            raise DataError(why_no_bucket(extent.num_frames, extent.fps, self.data))
        return bucket

    def view(self, index: int, bucket: Bucket, *key: int | str) -> Frames:
        return read_view(self._clip(index), self.data, bucket, *key)

    def image(self, index: int, bucket: Bucket, *key: int | str) -> Frames | None:
        return read_image_view(self._clip(index), self.data, bucket, *key)

    def fingerprint(self) -> str:
        return hash_of(self.data.model_dump_json(), self.clips.fingerprint())

    def _clip(self, index: int) -> Clip:
        return self.clips.items[index]


def source_of(recipe: Recipe) -> ClipSource | None:
    """The clips of a recipe; None where they are drawn without end. Raises DataError if there is none."""
    if isinstance(recipe.data, ClipsData):
        return FilesSource(recipe.data)
    count: int | None = getattr(recipe, "clips", None)  # a recipe of a VAE has none
    return None if count is None else ShapesSource(recipe.data, count)


def hash_of(*parts: object) -> str:
    """One hash of the texts of all parts, in their order."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def _file_stamp(path: Path) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "gone"
    return f"{found.st_size}:{found.st_mtime_ns}"


def _file_hash(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
