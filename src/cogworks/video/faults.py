"""What a fault of the system, of FFmpeg or of Pillow means to the person whose file it is."""

from __future__ import annotations

import contextlib
import errno
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

from cogworks.errors import VideoError

_WHY_NOT_WRITTEN = {
    errno.ENOSPC: "the disk is full; free some space or write to another one",
    errno.EDQUOT: "your share of the disk is full; free some space or write to another one",
    errno.EFBIG: "the file is larger than may be written here; write to another disk",
    errno.EACCES: "its folder may not be written; choose another",
    errno.EPERM: "its folder may not be written; choose another",
    errno.EROFS: "its disk may only be read; choose another",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another path",
    errno.EEXIST: "part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder has that name; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_WHY_NOT_READ = {
    errno.EACCES: "its permissions forbid it; change them or use another file",
    errno.EPERM: "its permissions forbid it; change them or use another file",
    errno.EIO: "the disk fails to give its contents; try a copy of the file",
}
DAMAGED = "it is damaged or in no format this can read; convert it (mp4 or png work) or use another file"


@contextlib.contextmanager
def reading(path: object, what: str = "") -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into one `VideoError`: file `path` is not `what`.

    Decoders warn about damage that does not stop them; those warnings are not shown.
    """
    attempt = f"cannot read {path} as {what}" if what else f"cannot read {path}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(f"{attempt}: memory ran out; use a smaller file") from error
    except Exception as error:  # on damaged files Pillow's plugins raise nearly every type there is
        raise VideoError(f"{attempt}: {_WHY_NOT_READ.get(_number(error), DAMAGED)}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a fault of the disk or of an encoder inside the block into one `VideoError` that names the file."""
    try:
        yield
    except VideoError:
        raise
    except _writing_errors() as error:
        text = getattr(error, "strerror", None) or str(error)  # FFmpeg's and the system's, without number and path
        reason = _WHY_NOT_WRITTEN.get(_number(error), f"{text}; try another place")
        raise VideoError(f"cannot write {path}: {reason}") from error


def _number(error: Exception) -> int:
    return getattr(error, "errno", None) or 0  # FFmpeg's own errors have one, too


def _writing_errors() -> tuple[type[Exception], ...]:
    """Looked up when something was raised: FFmpeg is not loaded to write a picture."""
    import av.error

    return (OSError, ValueError, struct.error, av.error.FFmpegError)
