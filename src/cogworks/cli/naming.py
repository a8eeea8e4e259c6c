"""Names of result files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.errors import RequestError

if TYPE_CHECKING:
    from cogworks.config.request import GenerationRequest

MAX_PROMPT = 48  # characters of the prompt in a name
PLACES = ("prompt", "seed", "index")


def output_path(output: str, request: GenerationRequest, index: int, *, many: bool) -> Path:
    """The file for one of the videos of a command.

    Args:
        output: a file's name, in which {prompt}, {seed} and {index} are filled in, or a folder: what exists as one,
            ends with a slash or has no ending.
        index: the video's number, from 1.
        many: whether there are others: their names must differ, so the seed goes into a name that holds no place.

    Raises:
        RequestError: a place that is unknown, or a name that no file can have.
    """
    if "\0" in output:
        raise RequestError(f"no file can be called {output!r}: it holds a null character")
    path = Path(output)
    if output.endswith(("/", "\\\\")) or path.is_dir() or not path.suffix:
        path = path / "{prompt}-{seed}.mp4"
    elif many and not re.search(r"\{(prompt|seed|index)\}|%\d*d", path.name):
        path = path.with_name(f"{path.stem}-{{seed}}{path.suffix}")
    words = {
        "prompt": slug(request.short_prompt or request.prompt),
        "seed": str(request.seed),
        "index": f"{index:04d}",
    }

    def fill(place: re.Match[str]) -> str:
        if place[1] not in words:
            raise RequestError(f"--output knows no {place[0]}; there are {{prompt}}, {{seed}} and {{index}}")
        return words[place[1]]

    return Path(re.sub(r"\{(\w*)\}", fill, str(path)))


def slug(text: str) -> str:
    """What of a text can stand in every system's file names."""
    return re.sub(r"\W+", "-", text.lower())[:MAX_PROMPT].strip("-") or "video"
