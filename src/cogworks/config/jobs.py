"""Lists of jobs: a file of prompts, or of requests, a line each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogworks.config.request import GenerationRequest, parse_request
from cogworks.errors import RequestError

ENDINGS = (".jsonl", ".txt", ".csv")


@dataclass(frozen=True)
class JobLine:
    """A line of a list.

    Attributes:
        number: of the line in the file, from 1.
        request: what it asks for, or None where it cannot be understood.
        output: the file that the line itself names, if any.
        error: why it cannot be understood.
    """

    number: int
    request: GenerationRequest | None = None
    output: Path | None = None
    error: str | None = None


def read_jobs(path: Path, defaults: Mapping[str, Any]) -> list[JobLine]:
    """Read a list of jobs. A line that cannot be understood is in the result, with its error.

    Args:
        path: .txt holds a prompt a line, where lines that are empty or begin with # say nothing; .jsonl a JSON object
            a line; .csv a header and a job a row, where an empty cell says nothing. Keys are those of a request and
            `output`.
        defaults: what holds where a line says nothing. A line without a seed gets its own number.

    Raises:
        RequestError: no such file, an unknown ending, not text, or no job in it.
    """
    lines = [_job(path, number, found, defaults) for number, found in read_rows(path)]
    if not lines:
        raise RequestError(f"{path} holds no job: write a prompt a line")
    return lines


def read_rows(path: Path) -> list[tuple[int, dict[str, Any] | str]]:
    """Numbers of the lines of a list that say something, from 1, and what they hold: keys and values, or why not.

    Args:
        path: .txt, .jsonl or .csv, as in `read_jobs`.

    Raises:
        RequestError: no such file, an unknown ending, or not text.
    """
    if path.suffix.lower() not in ENDINGS:
        raise RequestError(f"{path}: a list of jobs ends in {', '.join(ENDINGS)}")
    if not path.is_file():  # a device would be read without end
        raise RequestError(f"there is no list of jobs at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not text in UTF-8; save it as such") from None
    return list(_rows(path, text))


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers and what the lines hold: keys and values, or why not."""
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(text)
        return
    for number, line in enumerate(text.split("\n"), start=1):  # JSON strings may hold other line breaks
        stripped = line.strip()
        if not stripped or (path.suffix.lower() == ".txt" and stripped.startswith("#")):
            continue
        yield number, {"prompt": stripped} if path.suffix.lower() == ".txt" else _json_row(stripped)


def _json_row(line: str) -> dict[str, Any] | str:
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not valid JSON ({error})"
    return values if isinstance(values, dict) else f"a job is a JSON object, got {type(values).__name__}"


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not valid CSV ({error})"
            return
        if None in row:
            yield reader.line_num, "more cells than the header has; put a text that holds commas in quotes"
        else:
            yield reader.line_num, {key.strip(): cell for key, cell in row.items() if cell not in (None, "")}


def _job(path: Path, number: int, row: dict[str, Any] | str, defaults: Mapping[str, Any]) -> JobLine:
    where = f"{path} line {number}"
    if isinstance(row, str):
        return JobLine(number, error=f"{where}: {row}")
    output = row.pop("output", None)
    if output is not None and not isinstance(output, str):
        return JobLine(number, error=f"{where}: output is the name of a file, got {output!r}")
    try:
        request = parse_request({"seed": number, **without_rivals(defaults, row), **row}, where)
    except RequestError as error:
        return JobLine(number, error=str(error))
    return JobLine(number, request, Path(output) if output else None)


# What a line says in one way takes the place of what the defaults say in another.
_RIVALS = (
    {"size", "width", "height"},
    {"frames", "num_frames", "seconds"},
    {"steps", "num_inference_steps"},
    {"guidance", "guidance_scale"},
    {"dynamic_guidance", "use_dynamic_cfg"},
    {"lora", "loras"},
)


def without_rivals(defaults: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Of the defaults, what `row` does not say in this or another way."""
    said = set(row).union(*(rivals for rivals in _RIVALS if rivals & set(row)))
    return {name: value for name, value in defaults.items() if name not in said}
