"""`cogworks replay`: make a video again from its own recipe, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cogworks.cli.options import FILES, MACHINE, Content, Files, Machine, Settings, given
from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, refuse_existing, say
from cogworks.errors import ReplayError, RequestError

if TYPE_CHECKING:
    from cogworks.config.request import GenerationRequest
    from cogworks.config.video_recipe import VideoRecipe


def replay(
    file: Path,
    /,
    *,
    prompt: str | None = None,
    content: Content = Content(),
    settings: Settings = Settings(),
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=FILES)] = None,
    files: Files = Files(),
    machine: Machine = Machine(),
    exact: Annotated[Switch, Parameter(group=MACHINE)] = False,
    as_json: AsJson = False,
) -> None:
    """Make a video again from the recipe in its file, and say whether the pixels are equal.

    If they are not, says what differs: versions, device, weights. Options change the recipe, and then the result is a
    new video with nothing to compare: `cogworks replay out.mp4 --seed 8`.

    Args:
        file: A video made by `cogworks generate`.
        prompt: Another prompt.
        output: The new file; NAME-replay beside the old one if not given.
        exact: Leave out what changed pixels to save memory or time: 8 bits, tiles.
        as_json: Print JSON: the result on standard output, progress as events on standard error.
    """
    from cogworks.cli.run_jobs import play, report
    from cogworks.config.measures import Measures
    from cogworks.config.video_recipe import VideoRecipe
    from cogworks.pipelines.job import Means, Workshop
    from cogworks.video import check_output, read_metadata

    if exact and (machine.quantize or machine.tile):
        option = "--quantize" if machine.quantize else "--tile"
        raise RequestError(f"{option} changes pixels: give it or --exact, not both")
    old = VideoRecipe.from_metadata(read_metadata(file), str(file))
    changes = given(content, settings)
    if prompt is not None:
        changes |= {"prompt": prompt, "short_prompt": None}
    path = output or _beside(file)
    check_output(path, replace=files.force)
    refuse_existing(path, force=files.force)
    delivery = files.delivery()
    taken = dict(old.run.get("measures") or {})
    tile = taken.pop("tile", None)
    taken["strips"] = int(taken.get("strips") or 1)  # files of the first days say yes or no
    measures = Measures(**taken, tile=tuple(tile) if tile else None)
    workshop = Workshop(
        Means(
            device=machine.device,
            dtype=machine.dtype or old.run["dtype"],
            memory=machine.memory,
            quantize=machine.quantize or (None if exact else old.run.get("quantize")),
            tile=machine.tile_sides(),
            measures=None if machine.memory or machine.tile or exact else measures,
        )
    )
    with ProgressDisplay() as display:
        prepared = workshop.prepare(_with_sources(_changed(old.request, changes), file.parent))
        made = workshop.make(prepared, path, delivery, display)
    report(made, as_json=as_json)
    if files.show:
        play(made)
    if not changes:
        _compare(old, made.recipe)


def _beside(file: Path) -> Path:
    """A new name beside a file, or beside the folder of frames that `file` or its parent is."""
    if file.is_dir():
        return file.with_name(f"{file.name}-replay") / "%04d.png"
    if "%" in file.name:
        return file.parent.with_name(f"{file.parent.name}-replay") / file.name
    return file.with_name(f"{file.stem}-replay{file.suffix}")


def _changed(request: GenerationRequest, changes: dict[str, Any]) -> GenerationRequest:
    from cogworks.config.jobs import without_rivals
    from cogworks.config.request import parse_request

    return parse_request({**without_rivals(request.model_dump(), changes), **changes})


def _with_sources(request: GenerationRequest, folder: Path) -> GenerationRequest:
    """The request with its files where they are now: where they were, or beside the video."""
    found = {}
    for name in ("image", "video"):
        path = getattr(request, name)
        if path is None or path.exists():
            continue
        found[name] = folder / path.name
        if not found[name].exists():
            raise RequestError(f"the recipe begins from the {name} {path}, which is not there; give it with --{name}")
    return request.model_copy(update=found)


def _compare(old: VideoRecipe, new: VideoRecipe) -> None:
    """Say that the pixels are equal, or raise ReplayError with what differs."""
    if old.pixels == new.pixels:
        say("the pixels are equal")
        return
    differences = old.differences(new) or ["nothing that the recipe knows of: is the computation deterministic here?"]
    raise ReplayError("the pixels are not equal; what differs:\n  " + "\n  ".join(differences))
