"""The folder that VBench reads, from the videos of an evaluation.

    FOLDER/videos/{prompt}-{index}.mp4   index 0, 1, ... over the cases of one prompt, in their order
    FOLDER/prompts.json                  file name -> prompt, for its option --prompt_file
    FOLDER/seeds.json                    file name -> seed; VBench asks that seeds be recorded

VBench's standard suite takes five videos of every prompt, and 25 where flicker is judged: a suite names each prompt so
often, and as the seed of a case is the number of its line, each of its videos has another seed. Names are those of the
standard suite wherever a file can be called so. Where not (a prompt of over 200 bytes, or one with a slash), the name
is a shortened one, which VBench reads by `prompts.json` in its mode `custom_input` alone.

`videos` holds videos and nothing else, because VBench takes the ending of all of them from the first file it meets.

Sources: prompts/README.md, vbench/__init__.py and evaluate.py of github.com/Vchitect/VBench, read in its state of 2025.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from cogworks.errors import RequestError
from cogworks.evaluation.reports.report import Report
from cogworks.weights.storage import replacing_folder

PROMPTS, SEEDS, VIDEOS = "prompts.json", "seeds.json", "videos"
MAX_NAME_BYTES = 200  # of the prompt in a name: systems stop at 255 bytes, with index and ending
_REFUSED = re.compile(r'[/\\\0-\x1f<>:"|?*]' if os.name == "nt" else r"[/\0]")  # by the system, in a name


def check_folder(folder: Path) -> None:
    """Raise RequestError unless `folder` is new, empty, or was written by `write_vbench`."""
    if folder.is_file():
        raise RequestError(f"{folder} is a file; name a folder for VBench")
    if folder.is_dir() and (others := {path.name for path in folder.iterdir()} - {PROMPTS, SEEDS, VIDEOS}):
        raise RequestError(f"{folder} holds other things ({min(others)}); name a new folder for VBench")


def write_vbench(report: Report, videos: Path, folder: Path) -> int:
    """Copy the videos of a report to the names VBench looks for; the folder appears whole or not at all.

    Args:
        videos: the folder with the report's videos, called by the number of their case.
        folder: for VBench; one that was written by this function is replaced.

    Returns:
        How many videos there are.

    Raises:
        RequestError: a video is not there, or `folder` holds other things.
    """
    check_folder(folder)
    found = {int(path.stem): path for path in videos.glob("[0-9]*.*") if path.stem.isdigit()}
    indices: Counter[str] = Counter()
    prompts: dict[str, str] = {}
    seeds: dict[str, int] = {}
    with replacing_folder(folder) as new:
        (new / VIDEOS).mkdir(parents=True)
        for outcome in report.outcomes:
            source = found.get(outcome.number)
            if source is None:
                raise RequestError(f"there is no video of case {outcome.number} in {videos}; evaluate the model again")
            stem = file_stem(outcome.prompt)
            name = f"{stem}-{indices[stem]}{source.suffix}"
            indices[stem] += 1
            shutil.copyfile(source, new / VIDEOS / name)
            prompts[name], seeds[name] = outcome.prompt, outcome.seed
        for name, content in ((PROMPTS, prompts), (SEEDS, seeds)):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (new / name).write_text(f"{text}\n", encoding="utf-8")
    return len(prompts)


def file_stem(prompt: str) -> str:
    """A prompt as VBench's standard suite has it in a name, or what a file can be called instead."""
    if not _REFUSED.search(prompt) and len(prompt.encode()) <= MAX_NAME_BYTES:
        return prompt
    return _REFUSED.sub(" ", prompt).encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip() or "video"
