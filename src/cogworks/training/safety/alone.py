"""One run at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cogworks.errors import RunError

LOCK = "run.lock"


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Hold the folder of a run. The system lets go of it when the process ends, however it does.

    Raises:
        RunError: another process holds it: two runs would write over each other's checkpoints.
    """
    lock = FileLock(output / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"another run is at work in {output}: wait for it, or name another folder as output") from None
    try:
        yield
    finally:
        lock.release()
