"""`cogworks eval`: a model judged by what its videos show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, result, say
from cogworks.config.measures import Quantization
from cogworks.errors import RequestError

if TYPE_CHECKING:
    from cogworks.evaluation.reports.report import Report

_STAGES = {"videos": "generating and reading", "clips": "reconstructing"}


def evaluate(
    model: str = "tiny",
    /,
    *,
    suite: str = "shapes",
    samples: int | None = None,
    batch: int = 8,
    report: Path | None = None,
    against: Path | None = None,
    clip: Path | None = None,
    vbench: Path | None = None,
    quantize: Quantization | None = None,
    force: Switch = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a model does what it is asked.

    On the Shapes world it makes videos of combinations of shape, colour and motion that training never shows, and
    reads from their pixels whether they show what was asked for; then clips go through the VAE. On a file of prompts
    it measures what can be told of any video. A run that was ended goes on where its report is kept.

    Args:
        model: Bundled name, Hugging Face id, or a folder in the layout of diffusers or of SAT.
        suite: What it is asked: shapes, or a file with a JSON object a line: prompt, and if you like seed, image,
            reference (a video to compare with) and group.
        samples: How many cases of every group, from the first, and of the clips; all if not given.
        batch: Videos made at once: more need more memory. It changes no seed.
        report: Folder for the report as JSON and as a page, with all videos. A run that was ended goes on there.
        against: Report to compare with, case by case: a folder or its report.json.
        clip: Folder of a CLIP model, for the CLIP score of every video. Needs cogworks[eval].
        vbench: Folder to lay the videos out in as VBench reads them. Needs --report.
        quantize: Judge it in 8 bits, as `generate --quantize` has it.
        force: Begin anew, and replace the report that is there.
        as_json: Print the whole report as one JSON object instead of a table.
    """
    from cogworks.evaluation.reports.report import table
    from cogworks.evaluation.run import evaluate as run
    from cogworks.evaluation.run_folder import VIDEOS, read_report
    from cogworks.evaluation.suites import find_suite
    from cogworks.pipelines.load import load

    if batch < 1:
        raise RequestError(f"--batch must be 1 or more, got {batch}")
    _check_vbench(vbench, report)
    other = None if against is None else read_report(against)
    with ProgressDisplay() as display:
        pipeline = load(model, quantize=quantize)
        chosen, left_out = find_suite(suite, pipeline.variant, clip=clip, device=pipeline.components.device)
        try:
            found = run(
                pipeline,
                chosen,
                samples=samples,
                batch=batch,
                folder=report,
                force=force,
                left_out=left_out,
                on_progress=_Told(display),
            )
        except KeyboardInterrupt:
            if report is not None:
                say(f"the same command goes on after the videos that are in {report}")
            raise
    text, values = table(found), found.to_json()
    if other is not None:
        told, values["against"] = _compare(found, other, report)
        text = f"{text}\n\n{told}"
    if report is not None:
        say(f"wrote {report}")
        if vbench is not None:
            from cogworks.evaluation.reports.vbench import write_vbench

            say(f"laid out {write_vbench(found, report / VIDEOS, vbench)} videos in {vbench}")
    result(text, values, as_json=as_json)


class _Told:
    """Shows how far a run is, and what an earlier one has done of it."""

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display
        self._begun = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        from cogworks.pipelines.progress import Progress

        if stage == "load":
            self._display(Progress("load", done, total))
            return
        if stage == "videos" and not self._begun:
            self._begun = True
            if done:
                say(f"{done} of {total} videos are there already")
            if done == total:
                return
        self._display.show(_STAGES[stage], done, total, stage)


def _check_vbench(vbench: Path | None, report: Path | None) -> None:
    if vbench is None:
        return
    from cogworks.evaluation.reports.vbench import check_folder

    if report is None:
        raise RequestError("--vbench lays out the videos of a report; say where that goes with --report DIR")
    check_folder(vbench)


def _compare(found: Report, other: Report, folder: Path | None) -> tuple[str, dict[str, object]]:
    """The comparison as a table and as values; it enters the page of the report, if there is one."""
    from cogworks.evaluation.reports.compare import compare

    comparison = compare(found, other)
    if folder is not None:
        from cogworks.evaluation.reports.html_report import write_page

        write_page(found, folder, comparison)
    return comparison.table(), comparison.to_json()
