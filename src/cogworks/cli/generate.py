"""`cogworks generate`: a prompt in, a video file out; or a list of them."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cogworks.cli.options import CONTENT, FILES, MACHINE, Content, Files, Machine, Settings, given
from cogworks.cli.terminal import AsJson, Switch
from cogworks.errors import RequestError

MAX_PROMPT_CHARACTERS = 100_000
STANDARD_INPUT = "@-"  # what a lone - becomes before the words are parsed, which would take it for an option


def generate(
    prompt: str | None = None,
    /,
    *,
    content: Content = Content(),
    settings: Settings = Settings(),
    output: Annotated[str, Parameter(name=["--output", "-o"], group=FILES)] = ".",
    num: Annotated[int, Parameter(group=FILES)] = 1,
    batch: Annotated[Path | None, Parameter(group=FILES)] = None,
    files: Files = Files(),
    machine: Machine = Machine(),
    enhance: Annotated[Switch, Parameter(group=CONTENT)] = False,
    compare_exact: Annotated[Switch, Parameter(group=MACHINE)] = False,
    plan: Annotated[Switch, Parameter(group=MACHINE)] = False,
    as_json: AsJson = False,
) -> None:
    """Make a video from a prompt, an image or another video.

    Prints the path of the file. What is not given is the model's own default; `cogworks models show NAME` lists them.

    Args:
        prompt: What the video should show; - reads it from standard input, @FILE from a file.
        output: A file (.mp4, .webm, .gif, .webp, .png for a contact sheet, frames/%04d.png for a folder of frames), in
            whose name {prompt}, {seed} and {index} are filled in; or a folder for an mp4 named after prompt and seed.
        num: Number of videos, each with the next seed.
        batch: List of jobs instead of a prompt, a line each, as .txt, .jsonl or .csv; what is done already is skipped.
        enhance: Have the prompt rewritten into a long description first, as `settings.yaml` says by whom.
        compare_exact: With --quantize: make it exactly too, without a file, and say how far the latents and the pixels
            are from that.
        plan: Say what memory and time it would take, and make nothing.
        as_json: Print JSON: the result on standard output, progress as events on standard error.
    """
    from cogworks.cli.naming import output_path
    from cogworks.cli.run_jobs import BadJob, Job, run_jobs
    from cogworks.config.jobs import read_jobs
    from cogworks.config.request import parse_request

    if num < 1:
        raise RequestError(f"--num must be 1 or more, got {num}")
    if compare_exact and (machine.quantize is None or plan):
        raise RequestError(f"--compare-exact {'does not go with --plan' if plan else 'goes with --quantize alone'}")
    asked = given(content, settings)
    if batch is not None:
        if prompt is not None:
            raise RequestError("give a prompt or --batch, not both")
        if num != 1 or plan:
            raise RequestError(f"{'--plan' if plan else '--num'} does not go with --batch")
        jobs = [
            BadJob(line.error or "")
            if line.request is None
            else Job(
                line.request,
                output_path(str(line.output or output), line.request, line.number, many=line.output is None),
            )
            for line in read_jobs(batch, asked)
        ]
        run_jobs(jobs, files, machine, enhance=enhance, compare_exact=compare_exact, as_json=as_json, listed=batch)
        return
    if prompt is None:
        raise RequestError('say what the video should show: cogworks generate "a red circle moves right"')
    request = parse_request({**asked, "prompt": read_prompt(prompt)})
    if plan:
        from cogworks.cli.plan import plan_request

        plan_request(request, machine, as_json=as_json)
        return
    first = secrets.randbelow(2**31) if request.seed is None else request.seed
    requests = [request.model_copy(update={"seed": first + index}) for index in range(num)]
    run_jobs(
        [Job(each, output_path(output, each, index, many=num > 1)) for index, each in enumerate(requests, start=1)],
        files,
        machine,
        enhance=enhance,
        compare_exact=compare_exact,
        as_json=as_json,
    )


def read_prompt(text: str) -> str:
    """The prompt itself, or what standard input (-) or a file (@FILE) holds.

    Raises:
        RequestError: the file cannot be read, or is no text of a sensible length.
    """
    if text == STANDARD_INPUT:
        found = sys.stdin.read(MAX_PROMPT_CHARACTERS + 1)
    elif text.startswith("@") and len(text) > 1:
        path = Path(text[1:])
        try:
            with path.open(encoding="utf-8-sig") as file:
                found = file.read(MAX_PROMPT_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise RequestError(f"cannot read the prompt from {path}: {why}") from None
    else:
        found = text
    if len(found) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"a prompt of more than {MAX_PROMPT_CHARACTERS} characters is no prompt")
    return found.strip()
