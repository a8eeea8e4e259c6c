"""Requests to files, one after the other: what `generate`, a list of jobs and `replay` have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.cli.options import Files, Machine
from cogworks.cli.terminal import ProgressDisplay, refuse_existing, result, say
from cogworks.config.request import GenerationRequest
from cogworks.config.video_recipe import VideoRecipe
from cogworks.errors import CogworksError, JobsFailedError, RequestError
from cogworks.video import check_output, read_metadata

if TYPE_CHECKING:
    from cogworks.evaluation.figures.distance import Distance
    from cogworks.pipelines.job import Delivery, Made, Workshop


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
    compare_exact: bool,
    as_json: bool,
    listed: Path | None = None,
) -> None:
    """Make all, and print the path of each as it is done.

    Args:
        compare_exact: make each without quantization too, and say how far the result is from that.
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
    workshop = Workshop(
        Means(
            device=machine.device,
            dtype=machine.dtype,
            memory=machine.memory,
            tile=machine.tile_sides(),
            quantize=machine.quantize,
        )
    )
    failures: list[str] = []
    with ProgressDisplay() as display:
        for number, job in enumerate(jobs, start=1):
            if len(jobs) > 1:
                say(f"video {number} of {len(jobs)}")
                display.again()
            try:
                made = _run(job, workshop, delivery, display, enhance=enhance, skip_done=listed is not None)
                distance = None
                if compare_exact and made is not None:
                    distance = _compare_exact(made, workshop, display, as_json=as_json)
            except (CogworksError, OSError) as error:
                if listed is None:
                    raise
                say(f"error: {error}", "error")
                failures.append(str(error) if isinstance(job, BadJob) else f"{job.path}: {error}")
                continue
            if made is None:
                continue
            report(made, as_json=as_json, distance=distance)
            if files.show:
                play(made)
    if failures:
        raise JobsFailedError(f"{len(failures)} of {len(jobs)} jobs failed:\n  " + "\n  ".join(failures))


def _run(
    job: Job | BadJob,
    workshop: Workshop,
    delivery: Delivery,
    display: ProgressDisplay,
    *,
    enhance: bool,
    skip_done: bool,
) -> Made | None:
    """What a job makes; None where it is done already."""
    if isinstance(job, BadJob):
        raise RequestError(job.error)
    prepared = workshop.prepare(job.request, enhance=enhance)
    if skip_done and _is_done(job.path, prepared.key):
        say(f"{job.path} is done already")
        return None
    check_output(job.path, replace=delivery.replace)
    refuse_existing(job.path, force=delivery.replace)
    try:
        return workshop.make(prepared, job.path, delivery, display)
    except KeyboardInterrupt:
        _say_how_to_go_on(job, display.steps, in_list=skip_done)
        raise


def _compare_exact(made: Made, workshop: Workshop, display: ProgressDisplay, *, as_json: bool) -> Distance:
    """How far a result is from the exact one. Where that cannot be made, the result is reported without."""
    from cogworks.evaluation.figures.distance import Distance
    from cogworks.pipelines.job import Workshop

    say("the same without quantization")
    display.again()
    workshop.release()
    exact = Workshop(replace(workshop.means, quantize=None))
    try:
        video, latents = exact.generate(exact.prepare(made.recipe.request), display)
    except CogworksError:
        report(made, as_json=as_json)
        raise
    return Distance.between((made.video.frames, made.latents), (video.frames, latents))


def report(made: Made, *, as_json: bool, distance: Distance | None = None) -> None:
    """Print the path of a result on stdout and what it took on stderr, with its distance from the exact one."""
    video, request = made.video, made.recipe.request
    seconds = round(made.seconds, 1)
    frames = "1 frame" if video.num_frames == 1 else f"{video.num_frames} frames"
    say(f"{frames} of {video.width}x{video.height} in {seconds} s, seed {request.seed}")
    values = {"path": str(made.path), "seconds": seconds, **made.recipe.model_dump(mode="json")}
    if distance is not None:
        say(f"against the exact run: {distance}")
        values["distance"] = distance.to_json()
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
        return VideoRecipe.from_metadata(read_metadata(path), str(path)).key == key
    except CogworksError:
        return False


def _say_how_to_go_on(job: Job, steps: tuple[int, int] | None, *, in_list: bool) -> None:
    from cogworks.pipelines.job import state_file

    at = "" if steps is None else f" at step {steps[0]} of {steps[1]}"
    same = "the same command" if in_list else f"the same command with --seed {job.request.seed}"
    if state_file(job.path).exists():
        say(f"stopped{at}; {same} goes on from what is kept in {state_file(job.path)}")
    else:
        say(f"stopped{at}; {job.path} was not written. With --resumable, {same} could go on from there")
