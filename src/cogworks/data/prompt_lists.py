"""CogVideo's fine-tuning layout: line i of `videos.txt` is captioned by line i of `prompts.txt` (or `prompt.txt`).

Paths are relative to the folder. `images.txt`, if it is there, names conditioning images in the same order.
"""

from __future__ import annotations

from pathlib import Path

from cogworks.data.clip import Clips, printable
from cogworks.data.listing import Listing, read_text, why_missing
from cogworks.errors import DataError

VIDEOS, IMAGES = "videos.txt", "images.txt"
PROMPTS = ("prompts.txt", "prompt.txt")


def prompt_file(folder: Path) -> Path | None:
    """The file of prompts in a folder, if there is one."""
    return next((folder / name for name in PROMPTS if (folder / name).is_file()), None)


def list_prompts(folder: Path) -> Clips:
    """The clips of `videos.txt` with the captions and the images of the same lines.

    Raises:
        DataError: a file cannot be read, or the files have different numbers of lines: which line belongs to which
            cannot be told then.
    """
    prompts_at = prompt_file(folder)
    if prompts_at is None or not (folder / VIDEOS).is_file():
        there, missing = (VIDEOS, PROMPTS[0]) if prompts_at is None else (prompts_at.name, VIDEOS)
        raise DataError(f"{printable(folder)} holds {there} but no {missing}; the two belong together")
    files = [folder / VIDEOS, prompts_at, *([folder / IMAGES] if (folder / IMAGES).is_file() else [])]
    lines = _same_length(files)
    listing = Listing()
    for number, (video, prompt, *image) in enumerate(zip(*lines, strict=True), 1):
        place = f"line {number}"
        if not video:
            if prompt:
                listing.fault(f"{files[1].name}, {place}", f"caption without clip: {VIDEOS} is empty there")
            continue
        name, own = printable(video), image[0] if image else ""
        if not prompt:
            listing.fault(name, f"clip without caption ({files[1].name}, {place}, is empty)")
        elif (why := why_missing(folder / video)) is not None:
            listing.fault(name, f"{why} ({VIDEOS}, {place})")
        elif own and (why := why_missing(folder / own)) is not None:
            listing.fault(name, f"its image {printable(own)}: {why} ({IMAGES}, {place})")
        else:
            listing.add(name, prompt, folder / video, image=folder / own if own else None)
    return listing.done()


def _same_length(files: list[Path]) -> list[list[str]]:
    """The lines of each file, empty ones at the end left out; all empty ones where only that makes them even."""
    lines = [[line.strip() for line in read_text(file).rstrip().split("\n")] for file in files]
    if len({len(each) for each in lines}) > 1:
        full = [[line for line in each if line] for each in lines]
        if len({len(each) for each in full}) > 1:
            counts = ", ".join(f"{file.name} {len(each)}" for file, each in zip(files, full, strict=True))
            raise DataError(
                f"{printable(files[0].parent)}: which caption is whose cannot be told, because the files have "
                f"different numbers of lines: {counts}; give each clip one line in every file"
            )
        return full
    return lines
