"""Requests to files, one after the other: what `generate`, a list of jobs and `replay` have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.cli.options import Files, Machine
from cogworks.cli.terminal import ProgressDisplay, refuse_existing, result, say
from cogworks.config.request import GenerationRequest
from cogworks.config.video_recipe import VideoRecipe
from cogworks.errors import CogworksError, JobsFailedError, RequestError
from cogworks.video import check_output, read_metadata

if TYPE_CHECKING:
    from cogworks.pipelines.job import Made, Prepared


@dataclass(frozen=True)
class Job:
    """A request and the file it becomes."""

    request: GenerationRequest
    path: Path


@dataclass(frozen=True)
class BadJob:
    """A line of a list that cannot be understood."""

    error: str


def run_jobs(
    jobs: Sequence[Job | BadJob],
    files: Files,
    machine: Machine,
    *,
    enhance: bool,
    as_json: bool,
    listed: Path | None = None,
) -> None:
    """Make all, and print the path of each as it is done.

    Args:
        listed: the list that the jobs are from. Then what is done already is skipped, a job that fails does not keep
            the others from being run, and the failures are listed at the end.

    Raises:
        CogworksError: a job failed that is in no list.
        JobsFailedError: jobs of a list failed.
    """
    from cogworks.pipelines.job import Means, Workshop

    delivery = files.delivery()
    _refuse_twins(jobs)
    for job in jobs:
        if isinstance(job, Job) and listed is None:
            check_output(job.path, replace=files.force)
            refuse_existing(job.path, force=files.force)
    workshop = Workshop(Means(device=machine.device, dtype=machine.dtype, memory=machine.memory))
    failures: list[str] = []
    with ProgressDisplay() as display:
        for number, job in enumerate(jobs, start=1):
            if listed is not None:
                say(f"job {number} of {len(jobs)}")
                display.again()
            prepared = None
            try:
                if isinstance(job, BadJob):
                    raise RequestError(job.error)
                prepared = workshop.prepare(job.request, enhance=enhance)
                if listed is not None and _is_done(job.path, prepared.key):
                    say(f"{job.path} is done already")
                    continue
                check_output(job.path, replace=files.force)
                refuse_existing(job.path, force=files.force)
                made = workshop.make(prepared, job.path, delivery, display)
            except CogworksError as error:
                if listed is None:
                    raise
                say(f"error: {error}", "error")
                failures.append(str(error) if isinstance(job, BadJob) else f"{job.path}: {error}")
                continue
            except KeyboardInterrupt:
                _say_how_to_go_on(display, prepared, resumable=files.resumable, in_list=listed is not None)
                raise
            report(made, as_json=as_json)
            if files.show:
                play(made)
    if failures:
        raise JobsFailedError(f"{len(failures)} of {len(jobs)} jobs failed:\n  " + "\n  ".join(failures))


def report(made: Made, *, as_json: bool) -> None:
    """Print the path of a result on stdout and what it took on stderr."""
    video, request = made.video, made.recipe.request
    seconds = round(made.seconds, 1)
    say(f"{video.num_frames} frames of {video.width}x{video.height} in {seconds} s, seed {request.seed}")
    values = {"path": str(made.path), "seconds": seconds, **made.recipe.model_dump(mode="json")}
    result(str(made.path), values, as_json=as_json)


def play(made: Made) -> None:
    """Show a result in the terminal; one that shows no pictures gets a sentence instead."""
    from cogworks.video.terminal import play

    try:
        play(made.video, sys.stderr)
    except RequestError as error:
        say(str(error))


def _refuse_twins(jobs: Sequence[Job | BadJob]) -> None:
    paths = [job.path for job in jobs if isinstance(job, Job)]
    twin = next((path for path in paths if paths.count(path) > 1), None)
    if twin is not None:
        raise RequestError(f"two videos would be called {twin}; put {{seed}} or {{index}} into --output")


def _is_done(path: Path, key: str) -> bool:
    """Whether the file is there and was made for the same request, with the same inputs and weights."""
    try:
        return path.exists() and VideoRecipe.from_metadata(read_metadata(path), str(path)).key == key
    except CogworksError:
        return False


def _say_how_to_go_on(display: ProgressDisplay, prepared: Prepared | None, *, resumable: bool, in_list: bool) -> None:
    at = "" if display.steps is None else f" at step {display.steps[0]} of {display.steps[1]}"
    seed = "" if prepared is None or in_list else f" with --seed {prepared.request.seed}"
    if resumable:
        say(f"stopped{at}; the same command{seed} goes on from there")
    elif in_list:
        say(f"stopped{at}; the same command goes on with this job, from its beginning (--resumable keeps steps)")
    else:
        say(f"stopped{at}; nothing was written. The same command{seed} and --resumable can be stopped and goes on")
