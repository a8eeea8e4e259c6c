"""The processes of a run on several devices. Lightning starts them; here they end together, whatever ends one.

The first process starts the others by its own command, each with its number in LOCAL_RANK. It is the one that talks,
exports, and says what went wrong.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

import lightning as L

from cogworks.errors import CogworksError, RunError

AGREED_SECONDS = 10.0  # a replica that fails as all do leaves it to the first process to end it and to say why
ALONE_SECONDS = 2.0  # one that fails in another way may only be seeing that the first process is gone
WATCH_SECONDS = 0.5
HANGING_SECONDS = 30.0
"""After another process has ended, the first one fails in what they do together, at once or never; then it is ended."""

log = logging.getLogger(__name__)


def replica() -> int:
    """Which process of the run this is; 0 is the first."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class Replicas(L.Callback):
    """The processes of one run, from where they are started to where all have ended.

    A callback of the trainer that starts them.

    Args:
        count: of processes.
        threads: of each; Lightning would share out the cores instead.

    Raises:
        RunError: from the `with` block, in place of an error of communication, when a replica ended.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.threads = threads
        self._started: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take over the processes that a trainer has started, and the watch over them.

        Lightning's own watch would kill this process within five seconds of another's end, whether or not it has said
        by then what happened. It has nobody left to watch now, and ends.
        """
        started = getattr(trainer.strategy.launcher, "procs", [])
        if started:
            self._started += started
            started.clear()
            threading.Thread(target=self._end_if_hanging, daemon=True).start()

    def __enter__(self) -> Self:
        if self.count > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))
        if replica() > 0:
            logging.getLogger("cogworks").setLevel(logging.ERROR)
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and replica() > 0:
            agreed = isinstance(error, KeyboardInterrupt | RunError)
            time.sleep(AGREED_SECONDS if agreed else ALONE_SECONDS)  # most often `_end_with` ends it here
            return
        self._over.set()
        fallen = None
        if error is not None and not isinstance(error, CogworksError | KeyboardInterrupt):
            fallen = self._fallen()
        self._end(patient=error is None)
        if fallen is not None:
            raise RunError(fallen) from None

    def _fallen(self) -> str | None:
        """What to say of a process that has ended with an error."""
        for number, process in enumerate(self._started, start=1):
            if process.poll():
                return (
                    f"process {number} of {self.count} ended ({_how(process.returncode)}): start the run again, and it "
                    f"goes on from its last checkpoint"
                )
        return None

    def _end_if_hanging(self) -> None:
        """End this process if another one has fallen and it still waits for that one."""
        while (fallen := self._fallen()) is None:
            if self._over.wait(WATCH_SECONDS):
                return
        if self._over.wait(HANGING_SECONDS):
            return
        log.error(fallen)
        self._end(patient=False)
        os._exit(1)

    def _end(self, *, patient: bool) -> None:
        for process in self._started:
            if patient:
                process.wait()
            elif process.poll() is None:
                process.kill()
                process.wait()


def _end_with(parent: int) -> None:
    """End this process when the one that started it has ended."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}, what it said is above"
