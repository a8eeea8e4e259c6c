"""Suites from files: prompts of one's own, for models whose videos no oracle can read.

A line is {"prompt", "seed"?, "image"?, "reference"?, "group"?}; .txt with a prompt a line and .csv say the same as they
do in a list of jobs. Paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from cogworks.config.jobs import read_rows
from cogworks.config.request import MAX_SEED
from cogworks.config.strict import Strict
from cogworks.config.validation import explain
from cogworks.config.variants import Variant
from cogworks.errors import CogworksError, RequestError
from cogworks.evaluation.case import Case, Frames, Outcome, Picture, Suite
from cogworks.evaluation.figures.measures import MEASURES_FORMAT, reference_measures, temporal_measures
from cogworks.evaluation.figures.metrics import first_frame_psnr
from cogworks.pipelines.provenance import hash_file
from cogworks.video import read_image, read_video, resize_frames


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("a prompt or a group that is empty says nothing; write it or leave out the line")
    return text


Text = Annotated[str, AfterValidator(_says_something)]


class SuiteLine(Strict):
    """What a line of a suite says.

    Attributes:
        prompt: asked for.
        seed: of the video; None takes the number of the line.
        image: file of what the video is to begin with.
        reference: file of a video to compare with.
        group: cases of one group are counted together.
    """

    prompt: Text
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    image: Path | None = None
    reference: Path | None = None
    group: Text = "prompts"


def read_suite(path: Path, variant: Variant) -> Suite:
    """The cases of a file, for a model. Pictures are read now, in the model's default size; references when needed.

    Args:
        path: .jsonl, .txt or .csv.

    Raises:
        RequestError: no such file, no line in it, or the first line that is wrong: not an object, an unknown key, a
            value out of range, a file that is not there or cannot be read, an image for a model that takes none, or
            none for one that does.
    """
    digest = hashlib.sha256()
    cases: list[Case] = []
    for number, row in read_rows(path):
        try:
            case, content = _case(len(cases) + 1, number, row, path.parent, variant)
        except CogworksError as error:
            raise RequestError(f"{path} line {number}: {error}") from None
        cases.append(case)
        digest.update(f"{content}\n".encode())
    if not cases:
        raise RequestError(f"{path} holds no case: write a prompt a line")
    return Suite(path.name, tuple(cases), judge, f"file:{MEASURES_FORMAT}:{digest.hexdigest()}")


def judge(case: Case, frames: Frames) -> Outcome:
    """Measure a video: flicker and motion; against a reference PSNR and SSIM; against an image that of its first frame.

    Raises:
        VideoError: the reference cannot be read.
    """
    measures = temporal_measures(frames)
    if case.image is not None:
        measures["first frame PSNR"] = first_frame_psnr(case.image, frames)
    if case.reference is not None:
        measures |= reference_measures(frames, read_video(case.reference, max_frames=len(frames)).frames)
    return Outcome(case.number, case.group, case.prompt, case.seed, measures=measures)


def _case(place: int, number: int, row: dict[str, Any] | str, home: Path, variant: Variant) -> tuple[Case, str]:
    """A case, and all that it consists of as text."""
    line = _line(row)
    if line.image is None and variant.takes_image:
        raise RequestError(f'{variant.name} makes videos from an image; name one: "image": "FILE"')
    if line.image is not None and not variant.takes_image:
        raise RequestError(
            f"{variant.name} makes videos from text alone; leave out the image, or evaluate a model for images"
        )
    image = None if line.image is None else _picture(home / line.image, variant)
    reference = None if line.reference is None else home / line.reference
    if reference is not None:
        read_video(reference, max_frames=1)  # better known before the videos are made than after
    seed = number if line.seed is None else line.seed
    case = Case(place, line.group, line.prompt, seed, image=image, reference=reference)
    hashes = [None if file is None else hash_file(home / file) for file in (line.image, line.reference)]
    return case, json.dumps([line.prompt, seed, line.group, *hashes])


def _line(row: dict[str, Any] | str) -> SuiteLine:
    if isinstance(row, str):
        raise RequestError(row)
    try:
        return SuiteLine.model_validate(row)
    except ValidationError as error:
        raise RequestError(explain(error, SuiteLine.model_fields)) from None


def _picture(path: Path, variant: Variant) -> Picture:
    """In the size that the pipeline would bring it to: photographs are larger, and a suite has many."""
    return resize_frames(read_image(path)[None], variant.defaults.height, variant.defaults.width)[0]
