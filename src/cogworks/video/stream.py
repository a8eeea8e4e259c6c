"""Reading through FFmpeg: every container and codec that PyAV's wheels decode.

Only the local file itself is read, and only as a container of video: playlists, which name other files or addresses,
and formats that show any text as a video, are refused.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import VideoError
from cogworks.video.faults import reading
from cogworks.video.pictures import check_bytes
from cogworks.video.source import MAX_VIDEO_PIXELS, File, HeldFile, check_pixels

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,obu,av1,ivf,flv,asf,ogg,mxf,"
    "nut,rm,dv,yuv4mpegpipe,vc1,mjpeg,gxf,wtv"
)
_MAX_STRETCH = 4  # of a pixel's width to its height; what claims more is damaged
_ALMOST = 0.5  # of a frame: how far a frame may lie from its place at a constant rate


def read_stream(path: File, max_frames: int | None) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) and rate of a file's first video stream.

    Frames that come at uneven times are taken at even steps of their average rate, each the nearest in time.

    Raises:
        VideoError: no video in the file, larger than the limits, or damaged from the start.
    """
    with reading(path, "a video"), opened_container(path) as container:
        stream = video_stream(path, container)
        frames, times = _decode(path, container, stream, max_frames)
        rate, listed = stream.average_rate or stream.guessed_rate, stream.frames
    if not frames or not rate:
        raise VideoError(f"{path} holds no frame that can be read, or no frame rate; make or fetch it again")
    if len(frames) < min(listed, max_frames or listed):
        # Cut short, or trimmed without encoding anew: a player would show the same frames.
        _log.warning("%s lists %d frames, of which %d could be read", path, listed, len(frames))
    fps, nearest = even_steps(times, float(rate))
    stacked = _stack(frames)
    if nearest is None:
        return stacked, fps
    _log.warning("%s has a variable frame rate: taken at its average of %.4g frames a second", path, fps)
    return stacked[nearest], fps


def holds_video(path: File) -> bool:
    """Whether FFmpeg finds a video stream in the file."""
    try:
        with reading(path, "a video"), opened_container(path) as container:
            video_stream(path, container)
    except VideoError:
        return False
    return True


def stream_comment(path: File) -> str:
    """The text in the file's comment tag, "" if there is none."""
    with reading(path, "a video"), opened_container(path) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    return tags.get("comment", "")


def opened_container(path: File) -> InputContainer:
    """The file's container, opened as a video and nothing else; to be used inside `reading`."""
    import av

    # "file:" keeps FFmpeg from taking a colon in a name for a protocol. max_pixels binds the probing decoders, too.
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _CONTAINERS,
        "max_pixels": str(MAX_VIDEO_PIXELS),
    }
    file = io.BytesIO(path.data) if isinstance(path, HeldFile) else f"file:{path}"
    return av.open(file, "r", options=options, metadata_errors="replace")


def video_stream(path: File, container: InputContainer) -> VideoStream:
    """The first video stream that is no cover picture.

    Raises:
        VideoError: there is none.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise VideoError(f"{path} holds no video stream; use a file with moving pictures")


def _decode(
    path: File, container: InputContainer, stream: VideoStream, max_frames: int | None
) -> tuple[deque[NDArray[np.uint8]], list[float | None]]:
    """The frames in the order of showing, and when each is shown, in seconds."""
    from av.error import FFmpegError

    as_shown = AsShown(path, stream)
    context = stream.codec_context
    check_bytes(path, 3 * context.width * context.height * min(stream.frames, max_frames or stream.frames))
    frames: deque[NDArray[np.uint8]] = deque()
    times: list[float | None] = []
    try:
        for picture in container.decode(stream):
            frames.append(as_shown(picture))
            times.append(picture.time)
            check_bytes(path, len(frames) * frames[0].nbytes)
            if len(frames) == max_frames:
                break
    except FFmpegError:
        if not frames:
            raise
        _log.warning("%s is damaged after frame %d; the rest is left out", path, len(frames))
    return frames, times


class AsShown:
    """Makes decoded pictures of a stream (H, W, 3) RGB, as a player shows them, and all of one size.

    A stream that changes its size goes on in that of the first picture.

    Raises:
        VideoError: the stream is larger than `MAX_VIDEO_PIXELS`.
    """

    def __init__(self, path: File, stream: VideoStream) -> None:
        from av.video.reformatter import VideoReformatter

        context = stream.codec_context
        check_pixels(path, context.width, context.height, MAX_VIDEO_PIXELS)
        context.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}  # a stream may grow after its header
        stream.thread_type = "AUTO"
        self._path, self._pixel = path, stream.sample_aspect_ratio
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, picture: VideoFrame) -> NDArray[np.uint8]:
        if self._size is None:
            self._size = _shown_size(picture, self._pixel)
            check_pixels(self._path, *self._size, MAX_VIDEO_PIXELS)
        return _rgb(picture, self._reformatter, self._size)


def _shown_size(picture: VideoFrame, pixel: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels."""
    if not pixel or not 1 / _MAX_STRETCH <= pixel <= _MAX_STRETCH:
        return picture.width, picture.height
    return max(1, round(picture.width * pixel)), picture.height


def _rgb(picture: VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3), on white where it is transparent, turned the way a player shows it."""
    width, height = size
    form = picture.format
    transparent = form.has_palette or any(component.is_alpha for component in form.components)
    target = "rgba" if transparent else "rgb24"
    pixels = reformatter.reformat(picture, width, height, target, interpolation="BICUBIC").to_ndarray()
    if transparent:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    quarters = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters))


def even_steps(times: list[float | None], rate: float) -> tuple[float, NDArray[np.intp] | None]:
    """The constant rate of frames shown at `times`, and which frame to show at each step: None for one after the other.

    The number of frames stays what it is; `rate` is the file's claim, which holds where the times keep to it.
    """
    known = [time for time in times if time is not None]
    if len(known) < max(2, len(times)):
        return rate, None
    shown = np.asarray(known) - known[0]
    steps = np.arange(len(shown))
    span = float(shown[-1])
    if span <= 0 or (np.diff(shown) < 0).any() or np.abs(shown * rate - steps).max() < _ALMOST:
        return rate, None
    average = (len(shown) - 1) / span
    even = steps / average
    after = np.searchsorted(shown, even).clip(1, len(shown) - 1)
    nearest = after - (even - shown[after - 1] < shown[after] - even)
    return average, nearest


def _stack(frames: deque[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """np.stack, letting go of each frame once it is copied: a long video is in memory once, not twice."""
    stacked = np.empty((len(frames), *frames[0].shape), np.uint8)
    for index in range(len(frames)):
        stacked[index] = frames.popleft()
    return stacked
