"""Folders of files that belong together by their names.

- Captions beside clips: `a/x.mp4` and `a/x.txt`, in folders of any depth. The whole text is the caption.
- SAT's layout: `videos/a/x.mp4` and `labels/a/x.txt`; the first line is the caption. A clip without label is a fault
  here, where SAT trains it with an empty caption.

A picture with the name of a video is the conditioning image of that video; any other picture is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cogworks.data.clip import Clips
from cogworks.data.listing import (
    PICTURE_ENDINGS,
    VIDEO_ENDINGS,
    Listing,
    ending,
    read_text,
    relative_name,
)
from cogworks.errors import DataError

VIDEOS, LABELS = "videos", "labels"


def list_folder(folder: Path, files: Iterable[Path]) -> Clips:
    """The clips among `files`, which are below `folder`; the layout may differ from one to the next."""
    videos: dict[Path, list[Path]] = {}  # by the path without ending
    pictures: dict[Path, list[Path]] = {}
    texts: dict[Path, Path] = {}
    for path in files:
        stem = path.with_suffix("")
        if ending(path) in VIDEO_ENDINGS:
            videos.setdefault(stem, []).append(path)
        elif ending(path) in PICTURE_ENDINGS:
            pictures.setdefault(stem, []).append(path)
        elif ending(path) == ".txt":
            texts[stem] = path
    listing, used = Listing(), set[Path]()
    for stem in sorted({*videos, *pictures}):
        caption = next((texts[place] for place in (stem, _label(stem, folder)) if place in texts), None)
        if caption is not None:
            used.add(caption)
        clips = videos.get(stem) or pictures[stem]
        images = pictures.get(stem, []) if stem in videos else []
        _add(listing, folder, clips, images, caption)
    for path in texts.values():
        if path not in used and not _is_note(path, folder):
            listing.fault(relative_name(path, folder), "caption without clip")
    return listing.done()


def _add(listing: Listing, folder: Path, clips: list[Path], images: list[Path], caption: Path | None) -> None:
    for clip in clips:
        name = relative_name(clip, folder)
        if caption is None:
            listing.fault(name, f"clip without caption: no {clip.stem}.txt beside it or in its {LABELS} folder")
            continue
        try:
            text = read_text(caption)
        except DataError as error:
            listing.fault(name, f"clip without caption: {error}")
            continue
        if caption.parent != clip.parent:  # SAT's: what is below the first line is something else
            text = text.strip().partition("\n")[0]
        listing.add(name, text, clip, image=images[0] if images else None)


def _label(stem: Path, folder: Path) -> Path:
    """Where SAT looks for the label: every folder called `videos` below the source is called `labels`."""
    parts = [LABELS if part == VIDEOS else part for part in stem.relative_to(folder).parts[:-1]]
    return folder.joinpath(*parts, stem.name)


def _is_note(path: Path, folder: Path) -> bool:
    """A text at the top that is about the whole folder."""
    return path.parent == folder and path.stem.lower() in ("readme", "license", "licence", "copying", "requirements")
