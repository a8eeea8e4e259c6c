"""Tar shards in the layout of WebDataset: `key.mp4` and `key.txt`, one after the other, in one or many tar files.

A member's key is its path up to the first dot of its name. The caption is in `key.txt`, `key.caption` or `key.prompt`,
or under caption, text or prompt in `key.json`; or, as SAT has it, in `shard.meta.jsonl` beside `shard.tar`, whose rows
have `key` and the caption. A sample without video may hold a picture, a clip of one frame; beside a video a picture is
a thumbnail and is left alone.

A shard is read once to find where its members lie; clips are then read at their places. Nothing is unpacked.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cogworks.data.clip import Clips, Span, printable
from cogworks.data.listing import (
    MAX_TEXT_BYTES,
    PICTURE_ENDINGS,
    VIDEO_ENDINGS,
    Listing,
    decode_text,
    ending,
)
from cogworks.data.manifests import CAPTION_KEYS, Row, read_rows
from cogworks.errors import DataError

TEXT_ENDINGS = (".txt", ".caption", ".prompt")
MAX_SHARDS = 100_000  # that one pattern may stand for

_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(source: Path) -> bool:
    """Whether a path stands for several: shards-{000..099}.tar, or shards-*.tar."""
    return bool(_BRACE.search(str(source)) or glob.has_magic(str(source)))


def expand(pattern: Path) -> list[Path]:
    """The files a pattern stands for: all that braces name, there or not, and all there are for a star.

    Raises:
        DataError: it stands for more than `MAX_SHARDS`, or a star for nothing.
    """
    text = str(pattern)
    parts = _BRACE.split(text)
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > MAX_SHARDS:
        raise DataError(f"{printable(text)} stands for {count} shards; name at most {MAX_SHARDS}")
    named = ["".join(each) for each in itertools.product(*choices)]
    found = [Path(match) for name in named for match in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    if not found:
        raise DataError(f"no file is called {printable(text)}; check the pattern")
    return list(dict.fromkeys(found))


def list_shards(shards: list[Path]) -> Clips:
    """The clips of all shards, named "shard.tar/key".

    Shards of the same name in different folders are told apart by as much of their paths as that takes.
    """
    listing = Listing()
    for shard, name in zip(shards, _short_names(shards), strict=True):
        listing.extend(_list_shard(shard), name)
    return listing.done()


@dataclass
class _Sample:
    videos: dict[str, Span] = field(default_factory=dict)
    pictures: dict[str, Span] = field(default_factory=dict)
    texts: dict[str, Span] = field(default_factory=dict)


def _list_shard(shard: Path) -> Clips:
    listing = Listing()
    samples: dict[str, _Sample] = {}
    try:
        for name, span in _members(shard, listing):
            kind = ending(name)
            sample = samples.setdefault(_key(name), _Sample())
            if kind in VIDEO_ENDINGS:
                sample.videos[name] = span
            elif kind in PICTURE_ENDINGS:
                sample.pictures[name] = span
            elif kind in TEXT_ENDINGS or kind == ".json":
                sample.texts[name] = span
        captions = _meta_captions(shard, listing)
        for key, sample in samples.items():
            _add(listing, shard, key, sample, captions.pop(key, None))
        for key in captions:
            listing.fault(printable(key), "caption without clip: the shard has no such key")
    except (DataError, OSError) as error:
        listing.fault("", getattr(error, "strerror", None) or str(error))
    return listing.done()


def _members(shard: Path, listing: Listing) -> Iterator[tuple[str, Span]]:
    """Name and place of every regular file in a tar file, up to where it is damaged."""
    if not shard.is_file():  # a pipe would be read without end
        raise DataError("is no file" if shard.exists() else "no such file")
    size = shard.stat().st_size
    before = -1
    try:
        # "r:" takes no compression: in a compressed stream a clip could only be reached through all before it.
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                if member.offset <= before:  # a forged size leads back: it would go round for ever
                    raise tarfile.ReadError
                before = member.offset
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                if member.issparse() or member.size < 0 or member.offset_data + member.size > size:
                    why = "is stored with holes" if member.issparse() else "is cut short: the shard ends before it does"
                    listing.fault(printable(member.name), f"{why}; make the shard again")
                    continue
                yield member.name, Span(member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        if before < 0:
            raise DataError("is no tar file, or compressed; shards are plain .tar files") from None
        listing.fault("", f"is damaged after byte {before}; what comes later is left out")


def _add(listing: Listing, shard: Path, key: str, sample: _Sample, meta: str | None) -> None:
    clips = sample.videos or sample.pictures
    if not clips:
        if sample.texts:
            listing.fault(printable(key), "caption without clip")
        return
    for name, span in clips.items():
        # Several clips may share a key, as a.v1.mp4 and a.v2.mp4: then each goes with the text of its whole stem.
        stem = name.removesuffix(ending(name))
        texts = {each: at for each, at in sample.texts.items() if each.rpartition(".")[0] == stem} or (
            sample.texts if len(clips) == 1 else {}
        )
        unique = printable(key if len(clips) == 1 else stem)
        caption, why = _caption(shard, texts)
        caption = meta if caption is None else caption
        if caption is None:
            listing.fault(unique, f"clip without caption{why}")
        else:
            listing.add(unique, caption, shard, name, span)


def _caption(shard: Path, texts: dict[str, Span]) -> tuple[str | None, str]:
    """The caption among the texts of a clip, or why there is none."""
    why = ""
    for name, span in sorted(texts.items(), key=lambda item: ending(item[0]) == ".json"):
        try:
            text = _read(shard, name, span)
            if ending(name) != ".json":
                return text, ""
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # DataError is one
            why = f": {error}" if isinstance(error, DataError) else f": {printable(name)} is not JSON"
            continue
        caption = Row("", values).text(CAPTION_KEYS) if isinstance(values, dict) else None
        if caption is not None:
            return caption, ""
        why = f": {printable(name)} has none of {', '.join(CAPTION_KEYS)}"
    return None, why


def _read(shard: Path, name: str, span: Span) -> str:
    if span.size > MAX_TEXT_BYTES:
        raise DataError(f"{printable(name)} is larger than {MAX_TEXT_BYTES >> 20} MiB, too much for a caption")
    with open(shard, "rb") as file:
        file.seek(span.offset)
        return decode_text(file.read(span.size), name)


def _meta_captions(shard: Path, listing: Listing) -> dict[str, str]:
    """Captions by key from `shard.meta.jsonl`, if there is one."""
    path = shard.with_name(f"{shard.name.partition('.')[0]}.meta.jsonl")
    captions: dict[str, str] = {}
    for row in read_rows(path) if path.is_file() else ():
        key, caption = row.text(("key",)), row.text(CAPTION_KEYS)
        if row.values is None:
            listing.fault(row.place, row.why)
        elif key and caption is not None:
            captions[key] = caption
    return captions


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}".removeprefix("./")


def _choices(part: str) -> list[str]:
    """What {000..099} or {a,b} stands for; numbers keep the digits of the first."""
    if (found := _RANGE.fullmatch(part)) is None:
        return part.split(",")
    first, last = int(found[1]), int(found[2])
    if last - first >= MAX_SHARDS:
        raise DataError(f"{{{part}}} stands for {last - first + 1} shards; name at most {MAX_SHARDS}")
    return [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]


def _short_names(paths: list[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return [printable(Path(*path.parts[-depth:])) for path in paths]
