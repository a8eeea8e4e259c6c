"""The folder for VBench, read the way VBench reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.reports.report import Report
from cogworks.evaluation.reports.vbench import MAX_NAME_BYTES, check_folder, write_vbench

LONG = "a very long prompt " * 20


def report_of(*prompts: str) -> Report:
    outcomes = tuple(Outcome(number, "prompts", prompt, 10 + number) for number, prompt in enumerate(prompts, start=1))
    settings = VARIANTS["cogvideox-2b"].defaults
    return Report("cogvideox-2b", "0" * 64, "mine.jsonl", settings, None, outcomes, None, (), 1.0)


def videos_of(folder: Path, count: int, ending: str = ".mp4") -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number:04d}{ending}").write_bytes(b"video %d" % number)
    return folder


def test_standard_names_as_vbench_looks_for_them(tmp_path: Path) -> None:
    prompts = ["A cat.", "a dog, in oil", "A cat.", "a dog, in oil", "A cat."]
    assert write_vbench(report_of(*prompts), videos_of(tmp_path / "report/videos", 5), tmp_path / "bench") == 5
    videos = tmp_path / "bench/videos"
    # Its standard mode: the ending of any file, then f"{prompt}-{i}{ending}" for i = 0, 1, ...
    (ending,) = {path.suffix for path in videos.iterdir()}
    found = {
        prompt: [
            (videos / name).read_bytes() for i in range(5) if (videos / (name := f"{prompt}-{i}{ending}")).is_file()
        ]
        for prompt in prompts
    }
    assert found == {"A cat.": [b"video 1", b"video 3", b"video 5"], "a dog, in oil": [b"video 2", b"video 4"]}


def test_custom_input_reads_each_prompt_from_the_file(tmp_path: Path) -> None:
    prompts = ["A cat.", "left/right", LONG, LONG + "again", "a/b", "a b", "/"]
    write_vbench(report_of(*prompts), videos_of(tmp_path / "videos", len(prompts)), tmp_path / "bench")
    # Its mode custom_input: every video of the folder must be a key of the prompt file, relative to that folder.
    listed = json.loads((tmp_path / "bench/prompts.json").read_text())
    names = {path.name for path in (tmp_path / "bench/videos").iterdir()}
    assert names == set(listed)
    assert sorted(listed.values()) == sorted(prompts)
    assert all(len(name.encode()) <= MAX_NAME_BYTES + 10 for name in names)
    seeds = json.loads((tmp_path / "bench/seeds.json").read_text())
    by_content = {(tmp_path / "bench/videos" / name).read_bytes(): (listed[name], seeds[name]) for name in names}
    assert by_content == {b"video %d" % n: (prompt, 10 + n) for n, prompt in enumerate(prompts, start=1)}


def test_a_prompt_is_read_back_from_its_name(tmp_path: Path) -> None:
    write_vbench(report_of("a 3-2 win"), videos_of(tmp_path / "videos", 1, ".gif"), tmp_path / "bench")
    (video,) = (tmp_path / "bench/videos").iterdir()
    assert re.sub(r"-\d+$", "", video.stem) == "a 3-2 win"  # as VBench does without a prompt file


def test_it_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    videos = videos_of(tmp_path / "videos", 2)
    write_vbench(report_of("a", "b"), videos, tmp_path / "bench")
    write_vbench(report_of("a"), videos, tmp_path / "bench")
    assert [path.name for path in (tmp_path / "bench/videos").iterdir()] == ["a-0.mp4"]
    (tmp_path / "bench/notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds other things"):
        write_vbench(report_of("a"), videos, tmp_path / "bench")
    with pytest.raises(RequestError, match="is a file"):
        check_folder(tmp_path / "bench/notes.txt")
    check_folder(tmp_path / "new")


def test_a_missing_video_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no video of case 2"):
        write_vbench(report_of("a", "b"), videos_of(tmp_path / "videos", 1), tmp_path / "bench")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
