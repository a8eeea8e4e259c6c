"""The folder of a run: what is done stays done.

    run.json      what the run is of: weights, suite, settings
    cases.jsonl   a line for every case that is done, in the order in which they were
    videos/       the video of each, named after its number; it is there before its line is
    vae.json      what came of the clips that went through the VAE
    report.json   everything, once all is done
    index.html    the same as a page

A run that was ended at any point leaves whole lines and videos, and at most one line that is torn, which is dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.reports.report import Report, outcome_from_json, outcome_to_json
from cogworks.video import Video
from cogworks.weights.storage import replacing

if TYPE_CHECKING:
    from cogworks.evaluation.judging import Judged
    from cogworks.evaluation.shapes.vae_report import VAEReport

RUN_FILE, CASES_FILE, VAE_FILE = "run.json", "cases.jsonl", "vae.json"
REPORT_FILE, PAGE_FILE, VIDEOS = "report.json", "index.html", "videos"
VIDEO_ENDINGS = (".gif", ".mp4")
_OURS = {RUN_FILE, CASES_FILE, VAE_FILE, REPORT_FILE, PAGE_FILE, VIDEOS}
_VIDEO_NAME = re.compile(r"\d{4,}\.(gif|mp4)")


@dataclass(frozen=True)
class Done:
    """A case that is done, and the seconds that it took."""

    outcome: Outcome
    seconds: float


class RunFolder:
    """The folder of one run, from its beginning or from where an earlier one ended.

    Args:
        path: is made where it is not there.
        identity: what the run is of, values of JSON: what is done counts only where all of it is equal.
        ending: of the videos, ".gif" or ".mp4".
        force: begin anew, whatever is done.

    Attributes:
        done: by number of the case.

    Raises:
        RequestError: the folder holds anything but a run, or a run with another identity, or a damaged one.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], ending: str, *, force: bool = False) -> None:
        self.path, self._ending = path, ending
        self._cases = path / CASES_FILE
        _check_is_ours(path)
        if force:
            _empty(path)
        (path / VIDEOS).mkdir(parents=True, exist_ok=True)
        if (path / RUN_FILE).exists():
            _check_identity(path, identity)
        else:
            write_whole(path / RUN_FILE, identity)
        self.done = {number: done for number, done in self._read().items() if self.video_path(number).is_file()}

    def video_path(self, number: int) -> Path:
        """Where the video of a case is kept."""
        return self.path / VIDEOS / f"{number:04d}{self._ending}"

    def add(self, item: Judged, fps: float, seconds: float) -> None:
        """Keep a video, then the line that says that its case is done."""
        Video(item.frames, fps).save(self.video_path(item.case.number))
        line = json.dumps({**outcome_to_json(item.outcome), "seconds": seconds}, ensure_ascii=False, allow_nan=False)
        with self._cases.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[item.case.number] = Done(item.outcome, seconds)

    def vae(self, samples: int) -> tuple[VAEReport, float] | None:
        """What came of so many clips, and the seconds that it took, if that is done."""
        from cogworks.evaluation.shapes.vae_report import VAEReport

        if not (self.path / VAE_FILE).is_file():
            return None
        values = _read_object(self.path / VAE_FILE)
        try:
            return (VAEReport.from_json(values["vae"]), values["seconds"]) if values["samples"] == samples else None
        except (KeyError, TypeError, AttributeError):
            raise _damaged(self.path / VAE_FILE) from None

    def keep_vae(self, report: VAEReport, samples: int, seconds: float) -> None:
        """Keep what came of the clips."""
        write_whole(self.path / VAE_FILE, {"samples": samples, "seconds": seconds, "vae": report.to_json()})

    def finish(self, report: Report) -> None:
        """Write the report."""
        write_whole(self.path / REPORT_FILE, report.to_json())

    def _read(self) -> dict[int, Done]:
        """The lines of cases; a torn last one is cut off, so that the next begins a line."""
        if not self._cases.is_file():
            return {}
        content = self._cases.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._cases.open("rb+") as file:
                file.truncate(whole)
        found = {}
        try:
            for line in content[:whole].decode().split("\n")[:-1]:
                values = json.loads(line)
                outcome = outcome_from_json(values)
                found[outcome.number] = Done(outcome, float(values["seconds"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(self._cases) from None
        return found


def read_report(path: Path) -> Report:
    """The report in a folder, or in a file.

    Raises:
        RequestError: there is none, or it is damaged.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    if not file.is_file():
        raise RequestError(f"there is no report at {file}; name the folder of a finished `cogworks eval --report`")
    try:
        return Report.from_json(_read_object(file))
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from None


def write_whole(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    with replacing(path) as temporary:
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _check_is_ours(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path} is a file; --report takes the name of a folder")
    found = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} if path.is_dir() else set()
    if found and (RUN_FILE not in found or found - _OURS):
        other = sorted(found - _OURS or found)[0]
        raise RequestError(f"{path} holds other files ({other}); choose a new folder for the report")


def _empty(path: Path) -> None:
    """Remove the files of a run; its identity goes first, so that no half of a run counts as one."""
    for name in (RUN_FILE, CASES_FILE, VAE_FILE, REPORT_FILE, PAGE_FILE):
        (path / name).unlink(missing_ok=True)
    for video in (path / VIDEOS).glob("*"):
        if _VIDEO_NAME.fullmatch(video.name):
            video.unlink()


def _check_identity(path: Path, identity: Mapping[str, Any]) -> None:
    before = _read_object(path / RUN_FILE)
    now = json.loads(json.dumps(identity))
    differs = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differs:
        told = ", ".join(f"{name} ({_short(before.get(name))} there, {_short(now.get(name))} now)" for name in differs)
        raise RequestError(
            f"{path} holds an evaluation that differs in {told}; --force starts anew, --report chooses another folder"
        )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _damaged(path) from None
    if not isinstance(values, dict):
        raise _damaged(path)
    return values


def _damaged(path: Path) -> RequestError:
    return RequestError(f"{path} is damaged; --force starts the evaluation anew")
