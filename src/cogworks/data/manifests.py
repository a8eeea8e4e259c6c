"""Manifests: one row for each clip, in JSON lines or CSV.

A row names its file (`file`, `video`, `path` or `file_name`), its caption (`caption`, `text` or `prompt`) and, if it
has one, its conditioning image (`image`). Where a row has several of these words, the first in this order counts.
Paths are relative to the manifest, or absolute. Other columns are left alone.

That is also what Hugging Face's VideoFolder writes (`metadata.jsonl` or `metadata.csv` with file_name and text) and
what CogKit's text-to-video data are (`metadata.jsonl` with file_name and prompt). CogKit's image-to-video data come in
two forms: rows of one file in which a picture has the `id` of a video, and three files, `metadata.jsonl` (id, prompt),
`videos/metadata.jsonl` and `images/metadata.jsonl` (file_name, id).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cogworks.data.clip import Clips, printable
from cogworks.data.listing import PICTURE_ENDINGS, Listing, decode_text, ending, read_bytes, why_missing
from cogworks.errors import DataError

FILE_KEYS = ("file", "video", "path", "file_name")
CAPTION_KEYS = ("caption", "text", "prompt")
IMAGE_KEY = "image"
MANIFEST_ENDINGS = (".jsonl", ".ndjson", ".csv")
METADATA = ("metadata.jsonl", "metadata.csv")

_MAX_FIELD = 2**31 - 1  # characters of one value of a CSV file: what the module can count everywhere
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Row:
    """A row of a manifest: where it was, and what it says or why it says nothing."""

    place: str
    values: Mapping[str, object] | None
    why: str = ""

    def text(self, keys: tuple[str, ...]) -> str | None:
        """The first of these that holds text, "" if all that are there are empty; None if none is there."""
        values = self.values or {}
        texts = [value for key in keys if isinstance(value := values.get(key), str)]
        return next((text for text in texts if text.strip()), "" if texts else None)

    @property
    def id(self) -> object:
        value = (self.values or {}).get("id")
        return value if isinstance(value, str | int) else None


def list_manifest(path: Path) -> Clips:
    """The clips that a manifest names.

    Raises:
        DataError: it cannot be read, or has no column for the file or the caption.
    """
    rows = list(read_rows(path))
    listing = Listing()
    images = {row.id: row for row in rows if _is_image_row(row)}
    videos = {row.id for row in rows if row.id is not None and not _is_image_row(row)}
    for row in rows:
        if row.values is None:
            listing.fault(row.place, row.why)
        elif not _is_image_row(row):
            _add(listing, path.parent, row, row.text(CAPTION_KEYS), images.get(row.id) if row.id is not None else None)
        elif row.id not in videos:
            listing.fault(_name(row), "clip without caption, and no clip has its id")
    return listing.done()


def is_split_by_id(folder: Path) -> bool:
    """Whether a folder is CogKit's form of three files."""
    return all((folder / name / "metadata.jsonl").is_file() for name in ("", "videos"))


def list_by_id(folder: Path) -> Clips:
    """CogKit's form of three files, joined by `id`.

    Raises:
        DataError: one of the files cannot be read.
    """
    listing = Listing()
    prompts, videos, images = (_by_id(folder / name / "metadata.jsonl", listing) for name in ("", "videos", "images"))
    for key, row in videos.items():
        prompt = prompts.pop(key, None)
        caption = None if prompt is None else prompt.text(CAPTION_KEYS)
        if (file := row.text(FILE_KEYS)) is not None:
            row = Row(row.place, {"file": str(Path("videos", file))})
        image = images.pop(key, None)
        if image is not None and (file := image.text(FILE_KEYS)) is not None:
            image = Row(image.place, {"file": str(Path("images", file))})
        _add(listing, folder, row, caption, image)
    for key, row in prompts.items():
        listing.fault(row.place, f"caption without clip: no video has the id {key!r}")
    for key, row in images.items():
        listing.fault(row.place, f"image without clip: no video has the id {key!r}")
    return listing.done()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest, whatever is wrong with single ones.

    Raises:
        DataError: it cannot be read, or is a CSV file without the columns.
    """
    data = read_bytes(path)
    return _csv_rows(path, data) if ending(path) == ".csv" else _json_rows(path, data)


def _json_rows(path: Path, data: bytes) -> Iterator[Row]:
    # Only \n ends a line: captions may hold what else Unicode takes for one.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{printable(path.name)}, line {number}"
        try:
            values = json.loads(decode_text(line, place))
        except DataError:
            yield Row(place, None, "not text in UTF-8")
        except (ValueError, RecursionError):
            yield Row(place, None, "not a JSON object; is the line cut short?")
        else:
            yield Row(place, values) if isinstance(values, dict) else Row(place, None, "not a JSON object")


def _csv_rows(path: Path, data: bytes) -> Iterator[Row]:
    text = data.decode("utf-8-sig", "surrogateescape")  # a row in another encoding is one fault
    before = csv.field_size_limit(_MAX_FIELD)
    try:
        # An open quote is an error only in strict reading; otherwise it swallows the rows after it in silence.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = _parsed(reader)
        header = next(rows, None)
        names = [] if header is None or isinstance(header[1], str) else [name.strip() for name in header[1]]
        for what, keys in (("file", FILE_KEYS), ("caption", CAPTION_KEYS)):
            if not set(keys) & set(names):
                found = ", ".join(map(printable, names))[:_SHOWN] or "nothing"
                raise DataError(
                    f"{printable(path)} has no column for the {what}: its first line must name one of "
                    f"{', '.join(keys)}, and names {found}"
                )
        for number, cells in rows:
            yield _csv_row(f"{printable(path.name)}, line {number}", names, cells)
    finally:
        csv.field_size_limit(before)


def _csv_row(place: str, names: list[str], cells: list[str] | str) -> Row:
    if isinstance(cells, str):
        return Row(place, None, cells)
    if len(cells) != len(names):
        return Row(place, None, f"{len(cells)} values for {len(names)} columns; does a value with a comma lack quotes?")
    if not _is_text("".join(cells)):
        return Row(place, None, "not text in UTF-8")
    return Row(place, dict(zip(names, cells, strict=True)))


def _parsed(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | str]]:
    """Number of the line that a row ends on, and its cells, or why it has none; reading goes on after a bad row."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not CSV: {error}"  # type: ignore[attr-defined]
        else:
            if cells:
                yield reader.line_num, cells  # type: ignore[attr-defined]


def _add(listing: Listing, folder: Path, row: Row, caption: str | None, image: Row | None) -> None:
    file = row.text(FILE_KEYS)
    if not file:
        known = "caption without clip" if caption is not None else "neither clip nor caption"
        listing.fault(row.place, f"{known}: no {', '.join(FILE_KEYS[:-1])} or {FILE_KEYS[-1]}")
        return
    name = printable(file)
    if "://" in file:
        listing.fault(name, "is an address; fetch it and name the file")
    elif caption is not None and not _is_text(caption):
        listing.fault(name, f"its caption holds half a character ({row.place})")
    elif caption is None:
        listing.fault(name, f"clip without caption ({row.place})")
    elif (why := why_missing(folder / file)) is not None:
        listing.fault(name, f"{why} ({row.place})")
    else:
        own = row.text((IMAGE_KEY,)) or (None if image is None else image.text(FILE_KEYS))
        if own and (why := why_missing(folder / own)) is not None:
            listing.fault(name, f"its image {printable(own)}: {why} ({row.place})")
            return
        listing.add(name, caption, folder / file, image=folder / own if own else None)


def _is_image_row(row: Row) -> bool:
    """A picture without caption that has an id: the conditioning image of the clip with that id."""
    file = row.text(FILE_KEYS)
    return bool(file) and ending(str(file)) in PICTURE_ENDINGS and row.id is not None and not row.text(CAPTION_KEYS)


def _by_id(path: Path, listing: Listing) -> dict[object, Row]:
    """Rows by their id; what has none or one that was there before becomes a fault."""
    found: dict[object, Row] = {}
    if not path.exists():  # images are optional
        return found
    for row in read_rows(path):
        place = f"{path.parent.name}/{row.place}"
        if row.values is None or row.id is None:
            listing.fault(place, row.why or "no id")
        elif row.id in found:
            listing.fault(place, f"the id {row.id!r} is there twice")
        else:
            found[row.id] = Row(place, row.values)
    return found


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON can name half of a surrogate pair, and so does what was not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(row: Row) -> str:
    return printable(row.text(FILE_KEYS) or row.place)
