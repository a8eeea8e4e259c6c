"""Reading some frames of a file: how many there are without decoding them, and those that are wanted and few others.

The frames and the rate are those of `read_video`: frame i here is frame i there. Still pictures are videos of one
frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.faults import reading
from cogworks.video.pictures import check_bytes, is_still, read_animation, read_picture
from cogworks.video.source import File, existing, picture_format
from cogworks.video.stream import AsShown, even_steps, opened_container, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Convert = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

STILL_FPS = 1.0  # of a still picture, which has none


class Extent(NamedTuple):
    """How long and large a video is: frames, pixels, frames a second."""

    num_frames: int
    height: int
    width: int
    fps: float


class _Timeline(NamedTuple):
    """The frames of a stream in the order of showing, read without decoding.

    `stamps` are when they are shown, in the stream's ticks, None where not every frame has one of its own; `shown` is
    the frame at each even step, None for one after the other. `num_hidden` more frames are there to decode others from.
    """

    num_frames: int
    num_hidden: int
    stamps: NDArray[np.int64] | None
    fps: float
    shown: NDArray[np.intp] | None


def measure_video(path: str | Path | File, *, exact: bool = False) -> Extent:
    """How long and large a video or a picture is, decoding one frame.

    The number of frames is what the file promises, in its index or, without one, by its packets; a damaged one can hold
    fewer.

    Args:
        exact: look at every packet, so that a video that was cut without encoding it anew is not promised a frame more
            than it shows. Otherwise that is found where two frames or more are cut.

    Raises:
        VideoError: as `read_video`, where the first frame shows it.
    """
    file = existing(path)
    kind = picture_format(file)
    if kind is not None:
        frames, fps = _pictures(file, kind)
        return Extent(len(frames), frames.shape[1], frames.shape[2], fps)
    first = next(_decoded(file), None)
    with reading(file, "a video"), opened_container(file) as container:
        stream = video_stream(file, container)
        listed, fps = stream.frames, float(stream.average_rate or 0)
        if exact or not listed or not fps:
            timeline = _timeline(file, container, stream)
            listed, fps = max(listed - timeline.num_hidden, timeline.num_frames), timeline.fps
        elif stream.duration and stream.time_base:
            shown = round(stream.duration * stream.time_base * fps)
            listed = shown if 0 < shown < listed - 1 else listed  # the last frame may be listed without a duration
    if first is None or not listed:
        raise VideoError(f"{file} holds no frame that can be read, or no frame rate; make or fetch it again")
    height, width = first[1].shape[:2]
    return Extent(listed, height, width, fps)


def read_frames(
    path: str | Path | File, choose: Callable[[int, float], Sequence[int]], convert: Convert | None = None
) -> NDArray[np.uint8]:
    """Decode the frames that `choose` names, and of the others only those that these are coded from.

    Args:
        path: a video or a picture, on the disk or held in memory.
        choose: given the number of frames and the rate, the indices of the frames wanted, in any order, with
            repetition.
        convert: makes another frame of each frame (H, W, 3) as soon as it is decoded, so that large ones need not be in
            memory together.

    Returns:
        (T, H, W, 3), T = len(chosen).

    Raises:
        VideoError: as `read_video`, or a frame that is wanted cannot be decoded. What `choose` raises goes through.
    """
    file = existing(path)
    kind = picture_format(file)
    if kind is not None:
        frames, fps = _pictures(file, kind)
        chosen = list(choose(len(frames), fps))
        return frames[chosen] if convert is None else np.stack([convert(frames[index]) for index in chosen])
    with reading(file, "a video"), opened_container(file) as container:
        timeline = _timeline(file, container, video_stream(file, container))
    if not timeline.num_frames:
        raise VideoError(f"{file} holds no frame that can be read; make or fetch it again")
    wanted = np.asarray(choose(timeline.num_frames, timeline.fps), np.intp)
    if timeline.shown is not None:
        wanted = timeline.shown[wanted]
    found = _decoded_at(file, np.unique(wanted), timeline.stamps, convert)
    if not found.keys() >= set(wanted.tolist()):
        # Some packets held no frame, or no whole one. What the decoder gives is what counts, as for `read_video`.
        wanted = np.asarray(choose(max(1, sum(1 for _ in _decoded(file))), timeline.fps), np.intp)
        found = _decoded_at(file, np.unique(wanted), None, convert)
    missing = min(set(wanted.tolist()) - found.keys(), default=None)
    if missing is not None:
        raise VideoError(f"{file} is damaged: frame {missing} cannot be read; make or fetch it again")
    check_bytes(file, len(wanted) * found[int(wanted[0])].nbytes)
    return np.stack([found[index] for index in wanted.tolist()])


def each_frame(path: str | Path | File) -> Iterator[NDArray[np.uint8]]:
    """Decode one frame (H, W, 3) after the other, as they are in the file; only one is in memory.

    Raises:
        VideoError: as `read_video`; also where the file turns out to be damaged, after the frames before that.
    """
    file = existing(path)
    kind = picture_format(file)
    if kind is not None:
        yield from _pictures(file, kind)[0]
        return
    for _, frame in _decoded(file):
        yield frame


def _pictures(file: File, kind: str) -> tuple[NDArray[np.uint8], float]:
    """(T, H, W, 3) and the rate of a picture or an animation; animations are decoded from start to end anyway."""
    return (read_picture(file, kind)[None], STILL_FPS) if is_still(file, kind) else read_animation(file, kind, None)


def _timeline(file: File, container: InputContainer, stream: VideoStream) -> _Timeline:
    """What the packets tell. It leaves the container at its end.

    Raises:
        VideoError: the stream has no rate.
    """
    from av.error import FFmpegError

    stamps: list[int | None] = []
    hidden = 0
    try:
        for packet in container.demux(stream):
            if packet.size and packet.is_discard:
                hidden += 1
            elif packet.size:
                stamps.append(packet.pts)
    except FFmpegError:
        if not stamps:
            raise
        # What is there may be enough; a frame that is wanted and not there is told when it is decoded.
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(f"{file} tells no frame rate; make or fetch it again")
    known = np.sort(np.array([stamp for stamp in stamps if stamp is not None], np.int64))
    if len(known) < len(stamps) or (np.diff(known) == 0).any() or stream.time_base is None:
        return _Timeline(len(stamps), hidden, None, float(rate), None)
    fps, shown = even_steps([float(stamp * stream.time_base) for stamp in known.tolist()], float(rate))
    return _Timeline(len(stamps), hidden, known, fps, shown)


def _decoded_at(
    file: File, indices: NDArray[np.intp], stamps: NDArray[np.int64] | None, convert: Convert | None
) -> dict[int, NDArray[np.uint8]]:
    """Those of the frames at these ascending indices that are there, by index.

    It begins at the key frame before the first if `stamps` tell where that is.
    """
    place = {index: index for index in indices.tolist()}
    if stamps is not None and indices[0] > 0:
        by_stamp = {int(stamps[index]): index for index in place}
        with contextlib.suppress(VideoError):
            found = _collected(file, by_stamp, convert, seek=min(by_stamp))
            if len(found) == len(indices):
                return found
        # Some files have no index, or one that lies: from the start, then.
    return _collected(file, place, convert)


def _collected(
    file: File, places: dict[int, int], convert: Convert | None, seek: int | None = None
) -> dict[int, NDArray[np.uint8]]:
    """The frames that `places` names by what `_decoded` calls them, under the indices that it gives them."""
    found: dict[int, NDArray[np.uint8]] = {}
    for key, frame in _decoded(file, set(places), seek):
        found[places[key]] = frame if convert is None else convert(frame)
        check_bytes(file, len(found) * found[places[key]].nbytes)
    return found


def _decoded(
    file: File, wanted: set[int] | None = None, seek: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames (H, W, 3) of the file's video stream, up to the last that is wanted; None wants all.

    With `seek`, in the stream's ticks, it begins at the key frame before that, and frames go by their time stamps;
    without, by their index from the start.
    """
    last = None if wanted is None else max(wanted)
    # The caller's own errors pass by: what a generator yields to is outside its `with`, but not outside its `try`.
    with reading(file, "a video"), opened_container(file) as container:
        stream = video_stream(file, container)
        as_shown = AsShown(file, stream)
        if seek is not None:
            container.seek(seek, stream=stream)
        for index, picture in enumerate(container.decode(stream)):
            key = index if seek is None else picture.pts
            if key is not None and (wanted is None or key in wanted):
                yield key, as_shown(picture)
            if last is not None and key is not None and key >= last:
                return
