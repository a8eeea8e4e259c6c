"""One model against a suite: every case made and judged once, however often the run is ended on its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.errors import RequestError
from cogworks.evaluation.case import Case, Suite
from cogworks.evaluation.judging import batches, judged, making
from cogworks.evaluation.reports.report import Report
from cogworks.evaluation.run_folder import Done, RunFolder
from cogworks.evaluation.shapes.suite import SHAPES
from cogworks.weights.fingerprint import weights_hash

if TYPE_CHECKING:
    from cogworks.evaluation.shapes.vae_report import VAEReport
    from cogworks.pipelines.generate import Pipeline

OnProgress = Callable[[str, int, int], None]


def evaluate(
    pipeline: Pipeline,
    suite: Suite,
    *,
    samples: int | None = None,
    batch: int = 8,
    folder: Path | None = None,
    force: bool = False,
    left_out: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> Report:
    """Make a video for every case with the model's defaults, and judge it; then, of "shapes", measure the VAE.

    Args:
        samples: how many cases of every group, from the first, and how many clips; None takes all.
        batch: videos made at once. It changes memory and time, no seed, and the frames by rounding alone.
        folder: where the run is kept: it goes on after what is there. None keeps nothing.
        force: begin anew, whatever is in the folder.
        left_out: what is not measured, and why; for the report.
        on_progress: called with ("load", bytes read, bytes in all) where networks have to be read, and with ("videos"
            or "clips", done, in all) at the start and after every batch.

    Raises:
        RequestError: `samples` is out of range, or the folder holds something else.
        ValueError: `batch` is below 1.
    """
    tell = on_progress or (lambda stage, done, total: None)
    cases = first_cases(suite, samples)
    weights = weights_hash(pipeline.components.folder)
    kept = None
    if folder is not None:
        kept = RunFolder(
            folder, identity(pipeline, suite, weights), ".gif" if suite.name == SHAPES else ".mp4", force=force
        )
    done = _videos(pipeline, suite, cases, batch, kept, tell)
    vae, vae_seconds = _vae(pipeline, samples, batch, kept, tell) if suite.name == SHAPES else (None, 0.0)
    report = Report(
        model=pipeline.variant.name,
        weights=weights,
        suite=suite.name,
        settings=pipeline.variant.defaults,
        quantize=pipeline.components.quantize,
        outcomes=tuple(done[case.number].outcome for case in cases),
        vae=vae,
        left_out=tuple(left_out),
        seconds=vae_seconds + sum(done[case.number].seconds for case in cases),
    )
    if kept is not None:
        from cogworks.evaluation.reports.html_report import write_page

        kept.finish(report)
        write_page(report, kept.path)
    return report


def first_cases(suite: Suite, samples: int | None) -> tuple[Case, ...]:
    """The first `samples` cases of every group; all of a smaller one.

    Raises:
        RequestError: `samples` is below 1 or above the size of the largest group.
    """
    if samples is None:
        return suite.cases
    members: dict[str, list[Case]] = {}
    for case in suite.cases:
        members.setdefault(case.group, []).append(case)
    most = max(map(len, members.values()))
    if not 1 <= samples <= most:
        raise RequestError(f"samples must be from 1 to {most}, the cases of the largest group; got {samples}")
    chosen = {case.number for group in members.values() for case in group[:samples]}
    return tuple(case for case in suite.cases if case.number in chosen)


def identity(pipeline: Pipeline, suite: Suite, weights: str) -> dict[str, object]:
    """What decides which videos a run makes, and what comes of them."""
    return {
        "model": pipeline.variant.name,
        "weights": weights,
        "suite": suite.name,
        "cases": suite.fingerprint,
        **asdict(pipeline.variant.defaults),
        "quantize": pipeline.components.quantize,
        "dtype": str(pipeline.components.dtype).removeprefix("torch."),
    }


def _videos(
    pipeline: Pipeline,
    suite: Suite,
    cases: Sequence[Case],
    batch: int,
    kept: RunFolder | None,
    tell: OnProgress,
) -> dict[int, Done]:
    """What came of each case, by number. Batches of which anything is missing are made again as they were."""
    done = {} if kept is None else dict(kept.done)
    chosen = {case.number for case in cases}
    make, fps = making(pipeline), pipeline.variant.defaults.fps
    to_make = batches(cases, batch)
    if chosen - done.keys():
        pipeline.load_networks(on_progress=lambda progress: tell("load", progress.done, progress.total))
    tell("videos", len(chosen & done.keys()), len(cases))
    for some in to_make:
        missing = {case.number for case in some} - done.keys()
        if not missing:
            continue
        started = time.monotonic()
        made = list(judged(make, some, suite.judge))
        seconds = (time.monotonic() - started) / len(missing)
        for item in made:
            if item.case.number in missing:
                if kept is not None:
                    kept.add(item, fps, seconds)
                done[item.case.number] = Done(item.outcome, seconds)
        tell("videos", len(chosen & done.keys()), len(cases))
    return done


def _vae(
    pipeline: Pipeline, samples: int | None, batch: int, kept: RunFolder | None, tell: OnProgress
) -> tuple[VAEReport, float]:
    """What came of the clips that went through the VAE, and the seconds that it took."""
    from cogworks.evaluation.shapes.vae_eval import NUM_CLIPS, evaluate_vae

    clips = NUM_CLIPS if samples is None else min(samples, NUM_CLIPS)
    found = None if kept is None else kept.vae(clips)
    if found is not None:
        return found
    started = time.monotonic()
    report = evaluate_vae(pipeline, clips, batch, on_progress=lambda done, total: tell("clips", done, total))
    seconds = time.monotonic() - started
    if kept is not None:
        kept.keep_vae(report, clips, seconds)
    return report, seconds
