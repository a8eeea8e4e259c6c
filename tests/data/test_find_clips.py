"""Sources of clips: every layout is told from what is there, and a fault never shifts the captions of the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogworks.data.clips import Clip, Clips, find_clips
from cogworks.errors import DataError
from helpers.little_clips import save_clip, touch


def captions(clips: Clips) -> dict[str, str]:
    return {clip.name: clip.caption for clip in clips.items}


def faults(clips: Clips) -> dict[str, str]:
    return dict(clips.faults)


def write_rows(path: Path, *rows: object) -> Path:
    return touch(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_captions_beside_clips(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "deep" / "x.webm")
    touch(tmp_path / "b" / "deep" / "x.txt", "\ufeffa red circle\nmoves right \n")
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "a.txt", "a star")
    touch(tmp_path / "no caption.MP4")
    touch(tmp_path / "no clip.txt", "nothing")
    touch(tmp_path / "README.txt", "about this folder")
    touch(tmp_path / ".hidden.mp4")
    touch(tmp_path / ".cache" / "z.mp4")
    touch(tmp_path / "z.latin.mp4")
    touch(tmp_path / "z.latin.txt", "gr\xfcn".encode("latin-1"))
    clips = find_clips(tmp_path)
    assert captions(clips) == {"a.mp4": "a star", "b/deep/x.webm": "a red circle moves right"}
    assert [clip.file for clip in clips.items] == [tmp_path / "a.mp4", tmp_path / "b" / "deep" / "x.webm"]
    assert list(faults(clips)) == ["no caption.MP4", "z.latin.mp4", "no clip.txt"]
    assert "no no caption.txt beside it" in faults(clips)["no caption.MP4"]
    assert "not text in UTF-8" in faults(clips)["z.latin.mp4"]
    assert faults(clips)["no clip.txt"] == "caption without clip"


def test_pictures_are_clips_or_belong_to_the_video_of_their_name(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.png", "b.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "a.txt", "a")
    touch(tmp_path / "b.txt", "b")
    a, b = find_clips(tmp_path).items
    assert (a.name, a.image) == ("a.mp4", tmp_path / "a.png")
    assert (b.name, b.image) == ("b.jpg", None)


@pytest.mark.parametrize("depth", [(), ("part1",), ("part1", "part2")])
def test_the_layout_of_sat(tmp_path: Path, depth: tuple[str, ...]) -> None:
    root = tmp_path.joinpath(*depth)
    for name in ("1", "2", "more/3"):
        touch(root / "videos" / f"{name}.mp4")
    touch(root / "labels" / "1.txt", "one\nnot this line\n")
    touch(root / "labels" / "more" / "3.txt", "three")
    touch(root / "labels" / "4.txt", "four")
    clips = find_clips(tmp_path)
    before = "".join(f"{part}/" for part in depth)
    assert captions(clips) == {f"{before}videos/1.mp4": "one", f"{before}videos/more/3.mp4": "three"}
    assert set(faults(clips)) == {f"{before}videos/2.mp4", f"{before}labels/4.txt"}


@pytest.mark.parametrize("file_key", ["file", "video", "path", "file_name"])
@pytest.mark.parametrize("caption_key", ["text", "caption", "prompt"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_manifests(tmp_path: Path, file_key: str, caption_key: str, kind: str) -> None:
    touch(tmp_path / "videos" / "a.mp4")
    touch(tmp_path / "b, c.mp4")
    elsewhere = touch(tmp_path / "elsewhere" / "d.mp4")
    image = touch(tmp_path / "a.png")
    rows = [("videos/a.mp4", 'a "red", circle', "a.png"), ("b, c.mp4", "two\nlines", ""), (str(elsewhere), "d", "")]
    folder = tmp_path / "manifests"
    path = folder / f"list.{kind}"
    rows = [
        (f"../{file}" if not file.startswith("/") else file, text, f"../{own}" if own else "")
        for file, text, own in rows
    ]
    if kind == "jsonl":
        write_rows(path, *({file_key: file, caption_key: text, "image": own, "n": 1} for file, text, own in rows))
    else:
        quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in (*row, "1")) for row in rows]
        touch(path, "\r\n".join([f"{file_key},{caption_key},image,n", *quoted]))
    clips = find_clips(path)
    assert clips.faults == ()
    assert captions(clips) == {"../videos/a.mp4": 'a "red", circle', "../b, c.mp4": "two lines", str(elsewhere): "d"}
    assert [clip.image and clip.image.resolve() for clip in clips.items] == [image, None, None]


def test_a_bad_row_of_a_manifest_is_one_fault(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        touch(tmp_path / name)
    write_rows(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.mp4", "text": "a"},
        {"file_name": "missing.mp4", "text": "?"},
        {"file_name": "b.mp4"},
        {"text": "of nothing"},
        ["a list"],
        {"file_name": "https://example.com/x.mp4", "text": "far"},
        {"file_name": ".", "text": "a folder"},
        {"file_name": "b.mp4", "text": "b", "image": "missing.png"},
        {"file_name": "a.mp4", "text": None},
        {"file_name": 5, "text": "five"},
        {"file_name": "a\0b", "text": "nul"},
        {"file_name": "c.mp4", "text": ""},
        {"file_name": "c.mp4", "text": "\ud800"},
    )
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "c.mp4", "te\n\n{"file_name": "c.mp4", "text": "c"}')
    clips = find_clips(tmp_path)
    assert captions(clips) == {"a.mp4": "a", "c.mp4": "", "c.mp4#2": "c"}
    assert len(clips.faults) == 12
    assert "line 14" in clips.faults[-1].name or "JSON" in clips.faults[-1].why


@pytest.mark.parametrize("key", ["text", "prompt"])
@pytest.mark.parametrize("place", ["", "train"])
def test_video_folder_and_cogkit(tmp_path: Path, key: str, place: str) -> None:
    touch(tmp_path / place / "a.mp4")
    write_rows(tmp_path / place / "metadata.jsonl", {"file_name": "a.mp4", key: "a"})
    write_rows(tmp_path / "test" / "metadata.jsonl", {"prompt": "only a prompt"})
    assert captions(find_clips(tmp_path)) == {"a.mp4": "a"}


def test_cogkit_images_by_id_in_one_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "a.png", "c.png"):
        touch(tmp_path / name)
    write_rows(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.png", "id": 0},
        {"file_name": "b.mp4", "id": 1, "prompt": "b"},
        {"file_name": "a.mp4", "id": 0, "prompt": "a"},
        {"file_name": "c.png", "id": 7},
    )
    clips = find_clips(tmp_path)
    assert {clip.name: clip.image for clip in clips.items} == {"b.mp4": None, "a.mp4": tmp_path / "a.png"}
    assert list(faults(clips)) == ["c.png"]


def test_cogkit_images_by_id_in_three_files(tmp_path: Path) -> None:
    train = tmp_path / "train"
    for name in ("videos/a.mp4", "videos/b.mp4", "videos/d.mp4", "images/b.png"):
        touch(train / name)
    write_rows(train / "metadata.jsonl", *({"id": index, "prompt": f"p{index}"} for index in (0, 1, 3)))
    write_rows(
        train / "videos" / "metadata.jsonl",
        {"file_name": "b.mp4", "id": 1},
        {"file_name": "a.mp4", "id": 0},
        {"file_name": "d.mp4", "id": 9},
        {"file_name": "d.mp4", "id": 0},
    )
    write_rows(train / "images" / "metadata.jsonl", {"file_name": "b.png", "id": 1}, {"file_name": "b.png", "id": 5})
    clips = find_clips(tmp_path)
    assert {clip.name: (clip.caption, clip.image) for clip in clips.items} == {
        "videos/b.mp4": ("p1", train / "images" / "b.png"),
        "videos/a.mp4": ("p0", None),
    }
    whys = " ".join(why for _, why in clips.faults)
    assert len(clips.faults) == 4
    for part in ("is there twice", "clip without caption", "caption without clip", "image without clip"):
        assert part in whys


def test_cogvideo_lists(tmp_path: Path) -> None:
    for name in ("1.mp4", "3.mp4", "4.mp4", "1.png", "3.png"):
        touch(tmp_path / "v" / name)
    touch(tmp_path / "videos.txt", "v/1.mp4\nv/2.mp4\nv/3.mp4\nv/4.mp4\n\n")
    touch(tmp_path / "prompts.txt", "one\ntwo\nthree\n\n\n".replace("three\n", "three"))
    with pytest.raises(DataError, match=r"cannot be told.*videos\.txt 4, prompts\.txt 3"):
        find_clips(tmp_path)
    touch(tmp_path / "prompts.txt", "one\r\ntwo\r\nthree\r\nfour\u2028still four")
    clips = find_clips(tmp_path)
    assert captions(clips) == {"v/1.mp4": "one", "v/3.mp4": "three", "v/4.mp4": "four still four"}
    assert faults(clips) == {"v/2.mp4": "no such file (videos.txt, line 2)"}
    touch(tmp_path / "images.txt", "v/1.png\nv/1.png\nv/3.png\nv/4.png")
    clips = find_clips(tmp_path / "videos.txt")
    assert [clip.image for clip in clips.items] == [tmp_path / "v" / "1.png", tmp_path / "v" / "3.png"]
    assert "v/4.png: no such file" in faults(clips)["v/4.mp4"]


def test_a_list_without_the_other(tmp_path: Path) -> None:
    touch(tmp_path / "videos.txt", "a.mp4")
    with pytest.raises(DataError, match=r"videos\.txt but no prompts\.txt"):
        find_clips(tmp_path)
    os.rename(tmp_path / "videos.txt", tmp_path / "prompt.txt")
    with pytest.raises(DataError, match=r"prompt\.txt but no videos\.txt"):
        find_clips(tmp_path)


def test_a_missing_clip_does_not_shift_the_captions_after_it(tmp_path: Path) -> None:
    """The fault that LTX's trainer had: a clip is left out, its caption is not."""
    names = [f"{index}.mp4" for index in range(8)]
    for name in names:
        touch(tmp_path / name)
    touch(tmp_path / "videos.txt", "\n".join(names))
    touch(tmp_path / "prompts.txt", "\n".join(f"caption {index}" for index in range(8)))
    (tmp_path / "3.mp4").unlink()
    assert captions(find_clips(tmp_path)) == {f"{index}.mp4": f"caption {index}" for index in range(8) if index != 3}


@pytest.mark.parametrize("source", ["missing", "clip.mp4", "list.txt", "shards-{0..9}.tgz"])
def test_no_source(tmp_path: Path, source: str) -> None:
    touch(tmp_path / "clip.mp4")
    touch(tmp_path / "list.txt")
    with pytest.raises(DataError) as caught:
        find_clips(tmp_path / source)
    assert "\n" not in str(caught.value)


def test_nothing_usable_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no captioned clip; looked for captions \(x\.txt\).*tar shards"):
        find_clips(tmp_path)
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "b.mp4")
    with pytest.raises(DataError, match=r"a\.mp4: clip without caption.* \(and 1 more like it\); looked for"):
        find_clips(tmp_path)
    write_rows(tmp_path / "list.jsonl", {"file": "a.mp4", "text": "a"})
    with pytest.raises(DataError, match=r"list\.jsonl: is a manifest under a name of its own"):
        find_clips(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="permissions differ")
def test_a_folder_that_cannot_be_listed_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("closed", "open"):
        touch(tmp_path / folder / "a.mp4")
        touch(tmp_path / folder / "a.txt", "a")
    list_folder = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the superuser may list everything
    clips = find_clips(tmp_path)
    assert captions(clips) == {"open/a.mp4": "a"}
    assert [why for _, why in clips.faults] == ["cannot be listed: Permission denied"]


def test_folders_in_a_circle_are_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "a.mp4")
    touch(tmp_path / "real" / "a.txt", "a")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "source")
    assert captions(find_clips(tmp_path / "source")) == {"linked/a.mp4": "a"}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_not_text(tmp_path: Path) -> None:
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn\n.mp4")))
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn\n.txt")), "green")
    (clip,) = find_clips(tmp_path).items
    assert clip.name.isprintable()
    assert clip.name.encode()
    assert clip.file.is_file()


def test_the_fingerprint_follows_the_data_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        touch(tmp_path / folder / "a.mp4")
        touch(tmp_path / folder / "a.txt", "a")
    one = find_clips(tmp_path / "one").fingerprint()
    assert find_clips(tmp_path / "two").fingerprint() == one
    touch(tmp_path / "two" / "a.txt", "b")
    assert find_clips(tmp_path / "two").fingerprint() != one
    touch(tmp_path / "two" / "a.txt", "a")
    touch(tmp_path / "two" / "a.mp4", "another clip")
    assert find_clips(tmp_path / "two").fingerprint() != one


def test_a_clip_reads_itself(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "a.mp4", 9, caption="a")
    (clip,) = find_clips(tmp_path).items
    assert clip == Clip("a.mp4", "a", path)
    assert clip.read().num_frames == clip.measure().num_frames == 9
    again = save_clip(tmp_path / "more" / "b.mp4", 9)
    assert clip.content_hash() == Clip("b", "b", again).content_hash()
    assert clip.content_hash() != Clip("c", "c", save_clip(tmp_path / "c.mp4", 10)).content_hash()
