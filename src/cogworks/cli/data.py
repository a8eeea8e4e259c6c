"""`cogworks data`: looking at training data before a run does, and encoding them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from cogworks.cli.groups import MODELS
from cogworks.cli.prepare import prepare_data
from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, refuse_existing, result
from cogworks.errors import RequestError, RunError

if TYPE_CHECKING:
    from cogworks.config.training_data import ClipsData
    from cogworks.data.check import CheckReport

app = App(
    name="data",
    group=MODELS,
    help="Check the clips that a training run is to learn from, or encode them before it.",
    help_epilogue="Examples:\n\n  cogworks data check clips/\n  cogworks data check clips/ --size 49x480x720 --fps 8\n"
    "  cogworks data prepare recipe.yaml --workers 4",
    suppress_keyboard_interrupt=False,
)
app.command(prepare_data, name="prepare")


@app.command(name="check")
def check_data(
    source: Path,
    /,
    *,
    size: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    fps: float | None = None,
    workers: int | None = None,
    picture: Path | None = None,
    force: Switch = False,
    as_json: AsJson = False,
) -> None:
    """Decode every clip, and report lengths, sizes, rates and captions and all that is wrong.

    Finds clips without caption and captions without clip, duplicates, black, frozen, damaged and unreadable clips, and
    with a recipe or --size those that fit no size. The exit status is 1 if a problem was found.

    Args:
        source: A folder, a manifest (.jsonl, .csv), tar shards (shards-{000..099}.tar), or a recipe (.yaml).
        size: Frames, height and width to train at, as 49x480x720; may be given several times.
        fps: Frames a second to train at, with --size; every frame if not given.
        workers: Processes that decode; one for each core if not given.
        picture: Draw histograms into this file.
        force: Replace a picture that is already there.
        as_json: Print one JSON object instead of lines.
    """
    from cogworks.data.check import check_clips
    from cogworks.data.clips import find_clips
    from cogworks.data.histogram import check_picture_path, draw_histograms

    data = _data(source, size, fps)
    if workers is not None and workers < 1:
        raise RequestError(f"--workers must be 1 or more, got {workers}")
    if picture is not None:
        refuse_existing(picture, force=force)
        check_picture_path(picture)
    where = source if data is None else data.source
    clips = find_clips(where)
    with ProgressDisplay() as display:
        report = check_clips(
            clips,
            data,
            min(workers or _cores(), len(clips.items)),
            lambda done, total: display.show("decoding", done, total, "clips"),
        )
    if picture is not None:
        draw_histograms(report, picture)
    result("\n".join(_lines(where, report)), _values(where, report, picture), as_json=as_json)
    if report.problems:
        raise RunError(f"{where} has {_counted(len(report.problems), 'problem')}; see above")


def _data(source: Path, size: Sequence[str], fps: float | None) -> ClipsData | None:
    """What the clips are to be used for; None if nothing was said about that."""
    from pydantic import ValidationError

    from cogworks.config.training_data import Bucket, ClipsData
    from cogworks.config.validation import explain

    if source.suffix.lower() in (".yaml", ".yml"):
        from cogworks.config.recipe import load_recipe

        if size or fps is not None:
            raise RequestError("a recipe says sizes and fps itself; leave out --size and --fps")
        data = load_recipe(source, []).data
        if not isinstance(data, ClipsData):
            raise RequestError(f"{source} trains on drawn shapes, and no file is to be checked")
        return data
    if not size:
        if fps is not None:
            raise RequestError("--fps needs --size: it says at which rate the frames of a size are taken")
        return None
    try:
        sizes = tuple(Bucket(*(int(number) for number in each.split("x"))) for each in size)
        return ClipsData(kind="clips", source=source, sizes=sizes, fps=fps)
    except ValidationError as error:
        raise RequestError(explain(error, ClipsData.model_fields)) from None
    except (ValueError, TypeError):
        raise RequestError(f"--size is frames, height and width, as 49x480x720; got {' '.join(size)}") from None


def _lines(where: Path, report: CheckReport) -> list[str]:
    extents, videos = report.extents, [each for each in report.extents if each.num_frames > 1]
    rows = {
        "clips": _counted(len(report.clips), "clip")
        + (f", {len(extents) - len(videos)} of them pictures" if len(videos) < len(extents) else ""),
        "frames": _spread([each.num_frames for each in videos]),
        "seconds": _spread([each.num_frames / each.fps for each in videos]),
        "heights": _spread([each.height for each in extents]),
        "widths": _spread([each.width for each in extents]),
        "fps": _spread([each.fps for each in videos]),
        "words": f"{_spread(report.caption_words)} a caption",
        **{f"{'x'.join(map(str, bucket))}": _counted(count, "clip") for bucket, count in report.buckets.items()},
    }
    if report.repeated_captions:
        rows["words"] += f"; {_counted(report.repeated_captions, 'caption')} as another"
    width = max(map(len, rows))
    wide = max((len(problem.kind) for problem in report.problems), default=0)
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts().items())
    return [
        *(f"{name:<{width}}  {text}" for name, text in rows.items() if text),
        *(
            f"{problem.kind:<{wide}}  {problem.name}: {problem.text}"
            if problem.name
            else f"{problem.kind:<{wide}}  {problem.text}"
            for problem in report.problems
        ),
        f"{where}: {_counted(len(report.problems), 'problem')}{f' ({counts})' if counts else ''}.",
    ]


def _values(where: Path, report: CheckReport, picture: Path | None) -> dict[str, object]:
    clips = [
        {
            "name": clip.name,
            "frames": None if look.extent is None else look.extent.num_frames,
            "height": None if look.extent is None else look.extent.height,
            "width": None if look.extent is None else look.extent.width,
            "fps": None if look.extent is None else look.extent.fps,
            "caption_words": words,
            "sha256": look.content_hash,
        }
        for clip, look, words in zip(report.clips, report.looks, report.caption_words, strict=True)
    ]
    return {
        "source": str(where),
        "clips": clips,
        "sizes": {"x".join(map(str, bucket)): count for bucket, count in report.buckets.items()},
        "repeated_captions": report.repeated_captions,
        "problems": [{"name": problem.name, "kind": problem.kind, "text": problem.text} for problem in report.problems],
        "counts": report.counts(),
        "picture": None if picture is None else str(picture),
    }


def _spread(values: Sequence[float]) -> str:
    """Least, median and most of some numbers; "" of none."""
    if not values:
        return ""
    low, middle, high = (f"{value:.4g}" for value in (min(values), statistics.median(values), max(values)))
    return low if low == high else f"{low} to {high}, median {middle}"


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
