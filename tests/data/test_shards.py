"""Tar shards: clips are found, captioned and read where they lie, whatever is wrong with a shard or a sample."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogworks.data import shards
from cogworks.data.clips import Clips, find_clips
from cogworks.errors import DataError, VideoError
from cogworks.video import Video
from helpers.little_clips import frame_numbers, numbered, save_clip, touch


@cache
def clip_bytes(num_frames: int = 9) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        Video(numbered(num_frames), 8).save(path)
        return path.read_bytes()


def shard(path: Path, **members: bytes | str) -> Path:
    """A tar file; in the names of the members, __ is a dot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def found(source: Path) -> tuple[dict[str, str], dict[str, str]]:
    clips = find_clips(source)
    return {clip.name: clip.caption for clip in clips.items}, dict(clips.faults)


def test_clips_are_read_from_their_places(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar", a__mp4=clip_bytes(5), a__txt="a five", b__json='{"caption": "b"}', b__mp4=clip_bytes(9)
    )
    a, b = find_clips(path).items
    assert (a.name, a.caption, a.file, a.member) == ("s.tar/a", "a five", path, "a.mp4")
    assert (b.name, b.caption, b.member) == ("s.tar/b", "b", "b.mp4")
    assert frame_numbers(a.read().frames) == list(range(5))
    assert b.measure().num_frames == 9
    assert b.content_hash() == hashlib.sha256(clip_bytes(9)).hexdigest()
    assert os.listdir(tmp_path) == ["s.tar"]


@pytest.mark.parametrize("key", ["caption", "text", "prompt"])
def test_where_a_caption_may_be(tmp_path: Path, key: str) -> None:
    clip = clip_bytes()
    shard(tmp_path / "json.tar", a__mp4=clip, a__json=json.dumps({key: "a", "n": 1}))
    shard(tmp_path / "both.tar", a__json=json.dumps({key: "from json"}), a__avi=clip, a__txt="from text")
    shard(tmp_path / "meta.tar", x__mp4=clip, y__webm=clip)
    (tmp_path / "meta.meta.jsonl").write_text(
        "\n".join(
            json.dumps(row)
            for row in ({"key": "y", key: "y", "fps": 8}, {"key": "x", key: "x"}, {"key": "z", key: "z"})
        )
    )
    assert found(tmp_path / "json.tar") == ({"json.tar/a": "a"}, {})
    assert found(tmp_path / "both.tar") == ({"both.tar/a": "from text"}, {})
    captions, faults = found(tmp_path / "meta.tar")
    assert captions == {"meta.tar/x": "x", "meta.tar/y": "y"}
    assert list(faults) == ["meta.tar/z"]


def test_faults_of_samples_shift_nothing(tmp_path: Path) -> None:
    clip = clip_bytes()
    path = shard(
        tmp_path / "s.tar",
        a__mp4=clip,
        b__txt="of nothing",
        c__mp4=clip,
        c__txt="c",
        d__json="{",
        d__mp4=clip,
        e__mp4=clip,
        e__json='{"other": 1}',
        f__mp4=clip,
        f__txt=b"\xff\xfe",
        g__mp4=clip,
        g__txt="g",
    )
    captions, faults = found(path)
    assert captions == {"s.tar/c": "c", "s.tar/g": "g"}
    assert set(faults) == {f"s.tar/{key}" for key in "abdef"}
    assert "is not JSON" in faults["s.tar/d"]
    assert "has none of caption" in faults["s.tar/e"]
    assert "not text in UTF-8" in faults["s.tar/f"]


def test_samples_of_several_files(tmp_path: Path) -> None:
    clip = clip_bytes()
    path = shard(
        tmp_path / "s.tar",
        a__v1__mp4=clip,
        a__v1__txt="one",
        a__v2__mp4=clip,
        a__v2__txt="two",
        b__video__mp4=clip,
        b__caption__txt="b",
        b__jpg=b"a thumbnail",
        c__png=b"a picture",
        c__txt="c",
        **{"deep/er.mp4": clip, "deep/er.txt": "deeper", "._a.mp4": b"of a Mac"},
    )
    captions, faults = found(path)
    assert faults == {}
    assert captions == {
        "s.tar/a.v1": "one",
        "s.tar/a.v2": "two",
        "s.tar/b": "b",
        "s.tar/c": "c",
        "s.tar/deep/er": "deeper",
    }


def test_many_shards(tmp_path: Path) -> None:
    for index in range(3):
        shard(tmp_path / "part" / f"s-{index:03d}.tar", a__mp4=clip_bytes(), a__txt=f"{index}")
    shard(tmp_path / "other" / "s-000.tar", a__mp4=clip_bytes(), a__txt="other")
    every = {"other/s-000.tar/a": "other", **{f"part/s-{index:03d}.tar/a": f"{index}" for index in range(3)}}
    assert found(tmp_path) == (every, {})
    ranged = {f"s-{index:03d}.tar/a": f"{index}" for index in range(3)}
    assert found(tmp_path / "part" / "s-{000..002}.tar") == (ranged, {})
    assert found(tmp_path / "part" / "s-*.tar") == (ranged, {})
    captions, faults = found(tmp_path / "part" / "s-{001,007}.tar")
    assert (captions, faults) == ({"s-001.tar/a": "1"}, {"s-007.tar": "no such file"})
    assert len(found(tmp_path / "{part,other}" / "s-*.tar")[0]) == 4


@pytest.mark.parametrize("pattern", ["no-*.tar", "s-{0..999999999999}.tar", "{0..999}{0..999}.tar"])
def test_patterns_that_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=r"no file is called|at most"):
        find_clips(tmp_path / pattern)


def test_clips_and_shards_together_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", a__mp4=clip_bytes(), a__txt="a")
    touch(tmp_path / "b.mp4")
    with pytest.raises(DataError, match="clips and tar shards; give the folder of one"):
        find_clips(tmp_path)


def test_shards_that_are_none(tmp_path: Path) -> None:
    good = shard(tmp_path / "a.tar", a__mp4=clip_bytes(), a__txt="a")
    touch(tmp_path / "text.tar", "no tar")
    touch(tmp_path / "empty.tar", b"")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(good, "a.mp4")
    with tarfile.open(tmp_path / "linked.tar", "w") as archive:
        link = tarfile.TarInfo("b.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    captions, faults = found(tmp_path)
    assert captions == {"a.tar/a": "a"}
    for name in ("text.tar", "empty.tar", "packed.tar"):
        assert "no tar file, or compressed" in faults[name]


def test_names_never_lead_out_of_the_shard(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        **{"../../evil.mp4": clip_bytes(), "../../evil.txt": "evil", "/etc/x.mp4": b"", "/etc/x.txt": "x"},
    )
    before = sorted(tmp_path.rglob("*"))
    evil, empty = find_clips(path).items
    assert evil.read().num_frames == 9
    with pytest.raises(VideoError, match="empty"):
        empty.read()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_shard_cut_in_the_middle_keeps_what_is_whole(tmp_path: Path, share: float) -> None:
    members = {f"{key}__{kind}": clip_bytes() if kind == "mp4" else key for key in "abcd" for kind in ("txt", "mp4")}
    path = shard(tmp_path / "s.tar", **members)
    whole = {clip.name: clip for clip in find_clips(path).items}
    size = max(clip.span.offset + clip.span.size for clip in whole.values())
    with open(path, "rb+") as file:
        file.truncate(int(size * share))
    clips = find_clips(path)
    assert 0 < len(clips.items) < 4
    assert clips.faults
    for clip in clips.items:
        assert clip == whole[clip.name]
        assert clip.read().num_frames == 9
    with pytest.raises(VideoError, match="shorter than when it was listed"):
        whole["s.tar/d"].read()


def test_a_size_that_leads_back_ends(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", a__mp4=b"x" * 600, a__txt="a")
    data = bytearray(path.read_bytes())
    data[124:136] = (-1024 % 256**12).to_bytes(12, "big")  # base 256, negative
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    path.write_bytes(data)
    with pytest.raises(DataError):
        find_clips(path)


@cache
def whole_shard() -> bytes:
    with TemporaryDirectory() as folder:
        return shard(
            Path(folder, "s.tar"), a__mp4=b"video" * 200, a__txt="a", b__json='{"text": "b"}', b__mp4=b"x"
        ).read_bytes()


@settings(max_examples=80, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mangled_shard_is_listed_or_explained(draws: st.DataObject) -> None:
    data = bytearray(whole_shard())
    for _ in range(draws.draw(st.integers(1, 4))):
        place = draws.draw(st.integers(0, len(data) - 1))
        match draws.draw(st.sampled_from(("cut", "flip", "lose", "noise"))):
            case "cut":
                del data[place + 1 :]
            case "flip":
                data[place] ^= draws.draw(st.integers(1, 255))
            case "lose":
                del data[place : place + draws.draw(st.integers(1, 700))]
            case "noise":
                data[place:place] = draws.draw(st.binary(min_size=1, max_size=64))
        data = data or bytearray(b"x")
    with TemporaryDirectory() as folder:
        path = touch(Path(folder, "s.tar"), bytes(data))
        sentence = ""
        try:
            clips = find_clips(path)
        except DataError as error:
            clips, sentence = Clips(()), str(error)
        assert "\n" not in sentence
        for clip in clips.items:
            assert clip.span is not None
            assert clip.name.isprintable()
            assert clip.span.offset + clip.span.size <= len(data)


def test_shards_are_clips_like_others(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "loose" / "a.mp4", caption="a")
    shard(tmp_path / "s.tar", a__mp4=path.read_bytes(), a__txt="a")
    (loose,), (packed,) = find_clips(tmp_path / "loose").items, find_clips(tmp_path / "s.tar").items
    np.testing.assert_array_equal(loose.read().frames, packed.read().frames)
    assert loose.content_hash() == packed.content_hash()


def test_numbers_of_a_pattern_keep_their_digits() -> None:
    assert [path.name for path in shards.expand(Path("a-{08..11}.tar"))] == [f"a-{n:02d}.tar" for n in (8, 9, 10, 11)]
