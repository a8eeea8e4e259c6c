"""Manifests that something cut, garbled or blew up: rows are read or are faults, and good rows keep their captions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogworks.data.clips import Clips, find_clips
from cogworks.errors import DataError
from helpers.little_clips import touch

NAMES = [f"{index}.mp4" for index in range(6)]
TOLERANT = settings(max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def captions(folder: str | Path, name: str, data: bytes | str) -> dict[str, str]:
    """What a manifest of the clips `NAMES` gives; {} if it is refused in one sentence."""
    for each in NAMES:
        touch(Path(folder, each))
    path = touch(Path(folder, name), data)
    sentence = ""
    try:
        clips = find_clips(path)
    except DataError as error:
        clips, sentence = Clips(()), str(error)
    assert "\n" not in sentence
    assert len(sentence) < 2000
    for each in clips.faults:
        assert each.name.isprintable()
        assert "\n" not in each.why
    return {clip.name: clip.caption for clip in clips.items}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("cut", "lose", "noise"))):
            case "cut":
                del data[place:]
            case "lose":
                del data[place : place + draw(st.integers(1, 40))]
            case "noise":
                data[place:place] = draw(st.binary(min_size=1, max_size=20))
    return bytes(data)


ROWS = [{"file": name, "text": f"caption of {name}"} for name in NAMES]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b"file,text\n" + "".join(f'{row["file"]},"{row["text"]}"\n' for row in ROWS).encode()


@TOLERANT
@given(damaged(JSONL))
def test_damaged_json_lines_shift_nothing(data: bytes) -> None:
    whole = {line.decode() for line in JSONL.splitlines()}
    with TemporaryDirectory() as folder:
        found = captions(folder, "list.jsonl", data)
    untouched = [json.loads(line) for line in data.split(b"\n") if line.decode("latin-1") in whole]
    for row in untouched:
        assert row["text"] in [text for name, text in found.items() if name.partition("#")[0] == row["file"]]


@TOLERANT
@given(damaged(CSV))
def test_damaged_csv_is_read_or_explained(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        captions(folder, "list.csv", data)


@TOLERANT
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=6, max_size=6))
def test_any_caption_comes_back(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        rows = [{"file": name, "text": text} for name, text in zip(NAMES, texts, strict=True)]
        path = Path(folder, "list.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file", "text"])
            writer.writeheader()
            writer.writerows(rows)
        expected = {name: " ".join(text.split()) for name, text in zip(NAMES, texts, strict=True)}
        assert captions(folder, "list.csv", path.read_bytes()) == expected
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        assert captions(folder, "list.jsonl", lines) == expected


@TOLERANT
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["file", "text", "id", "image", "x"]), inner, max_size=4)
        ),
    )
)
def test_any_json_is_a_row_or_a_fault(value: object) -> None:
    with TemporaryDirectory() as folder:
        lines = json.dumps(value) + "\n" + JSONL.decode()
        assert captions(folder, "list.jsonl", lines).items() >= {row["file"]: row["text"] for row in ROWS}.items()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.jsonl", b""),
        ("list.csv", b""),
        ("list.csv", b"file,text\n"),
        ("list.csv", b"\n\n\n"),
        ("list.jsonl", b"[" * 100_000),
        ("list.jsonl", b'{"a":' * 100_000),
        ("list.jsonl", b"\0" * 1000),
        ("list.csv", b"\0" * 1000),
        ("list.jsonl", JSONL.decode().encode("utf-16")),
        ("list.csv", CSV.decode().encode("utf-16")),
        ("list.csv", b"name,words\n0.mp4,a\n"),
        ("list.csv", b"file,words\n0.mp4,a\n"),
        ("list.csv", b"\xff\xfe,\xff\n"),
        ("list.jsonl", b"9" * 10_000),
        ("list.jsonl", b'{"file": "' + b"x" * 10_000 + b'", "text": "long name"}'),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_holds_nothing_is_refused_in_one_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    assert captions(tmp_path, name, data) == {}


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = touch(tmp_path / "list.csv", "movie,words\na.mp4,a\n")
    with pytest.raises(
        DataError, match=r"no column for the file: .* file, video, path, file_name, and names movie, words"
    ):
        find_clips(path)
    touch(path, "file,words\na.mp4,a\n")
    with pytest.raises(DataError, match="no column for the caption"):
        find_clips(path)


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv"])
def test_a_caption_of_a_million_characters(tmp_path: Path, name: str) -> None:
    text = "word " * 200_000
    row = json.dumps({"file": "0.mp4", "text": text}) if name.endswith("jsonl") else f'file,text\n0.mp4,"{text}"\n'
    before = csv.field_size_limit()
    assert captions(tmp_path, name, row)["0.mp4"] == text.strip()
    assert csv.field_size_limit() == before


def test_an_open_quote_swallows_no_row_in_silence(tmp_path: Path) -> None:
    for name in NAMES:
        touch(tmp_path / name)
    path = touch(tmp_path / "list.csv", 'file,text\n0.mp4,a\n1.mp4,"b\n2.mp4,c\n3.mp4,d\n')
    clips = find_clips(path)
    assert [clip.caption for clip in clips.items] == ["a"]
    assert len(clips.faults) == 1


def test_a_row_in_another_encoding_is_one_fault(tmp_path: Path) -> None:
    data = b"file,text\n0.mp4,a\n1.mp4,gr\xfcn\n2.mp4,c\n"
    assert captions(tmp_path, "list.csv", data) == {"0.mp4": "a", "2.mp4": "c"}
    lines = b'{"file": "0.mp4", "text": "a"}\n{"file": "1.mp4", "text": "gr\xfcn"}\n{"file": "2.mp4", "text": "c"}\n'
    assert captions(tmp_path, "list.jsonl", lines) == {"0.mp4": "a", "2.mp4": "c"}


def test_rows_with_too_many_or_too_few_values(tmp_path: Path) -> None:
    data = "file,text\n0.mp4,one, two\n1.mp4\n2.mp4,c\n"
    assert captions(tmp_path, "list.csv", data) == {"2.mp4": "c"}
