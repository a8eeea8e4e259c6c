"""What the commands share: results on stdout, talk and progress on stderr, options with one meaning everywhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

from cyclopts import Parameter

from cogworks.errors import RequestError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from cogworks.pipelines.progress import Progress

AsJson = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""A flag without a `--no-` form."""

# What a phase of the pipeline is called, and what it counts.
_PHASES = {
    "load": ("loading", "MB"),
    "encode": ("reading the prompt", ""),
    "steps": ("sampling", "steps"),
    "decode": ("decoding", "latent frames"),
    "write": ("writing", ""),
}


def _counted(unit: str, number: int) -> str:
    """The unit after a number: one step, two steps."""
    return unit[:-1] if number == 1 and unit.endswith("s") else unit


# Seconds that the speed of a bar is averaged over: one step of a large model may take a minute.
SPEED_WINDOW_SECONDS = 600.0
TERMINAL_VARIABLES = ("FORCE_COLOR", "TTY_COMPATIBLE")  # with which rich takes for a terminal what is none

_events = False


def speak_json(*, events: bool) -> None:
    """Whether talk and progress are for a program, as JSON objects with an `event`, one a line on stderr."""
    global _events
    _events = events


def say(text: str, event: str = "message") -> None:
    """Talk to the person: one line on stderr."""
    line = json.dumps({"event": event, "text": text}, ensure_ascii=False) if _events else text
    print(line, file=sys.stderr, flush=True)


def result(text: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print what a command found: `text`, or `values` as one JSON object."""
    print(json.dumps(values, ensure_ascii=False) if as_json else text, flush=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise RequestError if `path` exists and may not be replaced."""
    from cogworks.video.folder import FramePattern

    if path.is_dir():
        raise RequestError(f"{path} is a folder, and a file is to be written")
    pattern = FramePattern.parse(path)
    if (path.exists() if pattern is None else pattern.folder.is_dir() and pattern.files()) and not force:
        raise RequestError(f"{path} is already there; --force replaces it, --output chooses another name")


def configure_logging() -> None:
    """Send the library's log to stderr. Other libraries log as they like; their warnings reach stderr by default."""
    ours = logging.getLogger("cogworks")
    if not any(isinstance(handler, _TalkHandler) for handler in ours.handlers):
        ours.addHandler(_TalkHandler())
    ours.setLevel(logging.INFO)


class _TalkHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            say(record.getMessage())
        else:
            prefix = "" if _events else f"{record.levelname.lower()}: "
            say(f"{prefix}{record.getMessage()}", record.levelname.lower())


def _bars() -> Bars | None:
    """Bars on a terminal, None elsewhere. `rich` takes 50 ms to load: it is asked only where it may say yes."""
    if not (sys.stderr.isatty() or any(os.environ.get(name) for name in TERMINAL_VARIABLES)):
        return None
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # stdout stays as it is: results are printed there, also while bars are on stderr.
    bars = Bars(*columns, console=console, redirect_stdout=False, speed_estimate_period=SPEED_WINDOW_SECONDS)
    return bars if console.is_terminal else None


class ProgressDisplay:
    """Shows how far a command is: bars with the time left on a terminal, one line for each phase elsewhere.

    For a program (`speak_json`) it is one event for every unit that is done. An instance is what a pipeline takes as
    `on_progress`.
    """

    def __init__(self) -> None:
        self._bars = None if _events else _bars()
        self._started: dict[str, TaskID | None] = {}
        self._began: dict[str, tuple[float, int]] = {}  # when what a label names began, and with how much done
        self._sent: tuple[str, int] | None = None  # the label and its percent of the last event
        self.steps: tuple[int, int] | None = None  # sampling steps that are done, and all there are

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "steps":
            self.steps = progress.done, progress.total
        label, unit = _PHASES[progress.phase]
        if progress.network:
            label += f" the {progress.network}"
        done, total = progress.done, progress.total
        if unit == "MB":  # it comes in bytes; less than one is one
            total = max(progress.total // 10**6, 1)
            done = total if progress.done == progress.total else min(done // 10**6, total)
        if _events:
            self._send(label, done, total, progress.phase, progress.network)
        else:
            self.show(label, done, total, unit)

    def show(self, label: str, done: int, total: int, unit: str = "") -> None:
        """Say that of what `label` names, `done` of `total` units are done; no `unit` means that it is one thing."""
        if _events:
            self._send(label, done, total, label)
        elif self._bars is None:
            if label not in self._started:
                self._started[label] = None
                say(f"{label}, {total} {_counted(unit, total)}" if unit else label)
        else:
            task = self._started.get(label)
            if task is None:
                # A single thing has no time left to tell: its bar moves to and fro until it is done.
                task = self._started[label] = self._bars.add_task(label, total=total if unit else None, count="")
            count = f"{done}/{total} {_counted(unit, total)}" if unit else ""
            self._bars.update(task, completed=done, total=total if done else None, count=count)

    def again(self) -> None:
        """The next job begins: its phases are new ones."""
        self._began.clear()
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
        self._started.clear()

    def _send(self, label: str, done: int, total: int, phase: str, network: str = "") -> None:
        percent = label, 100 * done // max(total, 1)
        if percent == self._sent:
            return
        self._sent = percent
        began, first = self._began.setdefault(label, (time.monotonic(), done))
        share = (total - done) / (done - first) if done > first else None
        left = None if share is None else round((time.monotonic() - began) * share, 1)
        what = {"phase": phase, "network": network} if network else {"phase": phase}
        event = {"event": "progress", **what, "done": done, "total": total, "seconds_left": left}
        print(json.dumps(event), file=sys.stderr, flush=True)
