"""A thousand command lines that nobody would write, and files that nobody should have: always one sentence.

No traceback, no bug report, no exit status outside the table, no half file, no hang.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cogworks.cli.main import main
from cogworks.pipelines.load import load
from cogworks.video import Video

STATUSES = {0, 1, 2, 130}
EXAMPLES = 1000
SECONDS = 30  # for one command, on a busy machine

# Values of options: some that are right, many that are not. Nothing right is expensive.
WORDS = st.text(max_size=12) | st.sampled_from(["", " ", "-", "--", "@", "@missing.txt", "é" * 40, "\x00", "{seed}"])
NUMBERS = st.integers(-3, 3).map(str) | st.sampled_from(
    ["nan", "inf", "-inf", "1e999", "1_0", "0x10", "\uff19", str(2**80)]
)
FILES = st.sampled_from(
    [
        *(f"{state}.{ending}" for state in ("good", "cut", "flipped") for ending in ("mp4", "gif", "png")),
        *("empty.mp4", "empty.png", "text.mp4", "text.png", "gray16.png", "alpha.png", "good.mp4.png", "missing.mp4"),
        *("jobs.jsonl", "jobs.csv", "bad.jsonl", "empty.txt", "folder", "/dev/null", "/dev/zero"),
    ]
)
VALUES = {
    "--image": FILES,
    "--video": FILES,
    "--batch": FILES,
    "--strength": NUMBERS | st.just("0.5"),
    "--fit": st.sampled_from(["crop", "pad", "stretch", "squash", ""]),
    "--negative-prompt": WORDS,
    "--frames": NUMBERS | st.sampled_from(["1", "9", "1000000001", "-9"]),
    "--seconds": NUMBERS | st.just("0.2"),
    "--size": st.sampled_from(
        ["32x32", "32X16", "16x16", "0x0", "31x32", "-8x8", "x", "1e3x8", "999999x999999", "\uff11\uff16x16"]
    ),
    "--fps": NUMBERS,
    "--seed": NUMBERS,
    "--steps": NUMBERS | st.just("1001"),
    "--guidance": NUMBERS,
    "--sampler": st.sampled_from(["ddim", "dpm", "dpm-ode", "ddpm", "euler", ""]),
    "--lora": FILES | st.sampled_from(["a:b", ":1", "good.png:nan", ""]),
    "--output": st.sampled_from(
        ["out.mp4", "out.gif", "out.avi", "good.gif", "f/%04d.png", "%d%d.png", "{x}.mp4", "folder", "good.mp4/out.mp4"]
    )
    | WORDS.filter(lambda word: "/" not in word),
    "--num": NUMBERS,
    "--device": st.sampled_from(["cpu", "cuda:7", "tpu", ""]),
    "--dtype": st.sampled_from(["float32", "int4", ""]),
    "--memory": st.sampled_from(["8GB", "1B", "-1GB", "much", "0", ""]),
    "--upscale": NUMBERS,
    "--nonsense": WORDS,
}
FLAGS = ["--force", "--json", "--no-metadata", "--resumable", "--plan", "--enhance", "--show", "--dynamic-guidance"]
option = st.one_of(
    *(st.tuples(st.just(name), values) for name, values in VALUES.items()),
    st.sampled_from(FLAGS).map(lambda flag: (flag,)),
)
prompts = st.sampled_from([("a red circle",), ("a blue star",), ("",), ("-",), ()]) | st.tuples(WORDS)
generate_lines = st.tuples(prompts, st.lists(option, max_size=4)).map(
    lambda line: ["generate", *line[0], *(word for words in line[1] for word in words)]
)
other_lines = st.one_of(
    st.tuples(st.sampled_from(["show", "replay"]), FILES).map(list),
    st.tuples(st.just("replay"), FILES, st.just("--seed"), NUMBERS).map(list),
    st.tuples(st.sampled_from(["plan", "doctor", "models", "lora", "convert", "eval", "train"]), FILES | WORDS).map(
        list
    ),
    st.tuples(st.just("data"), st.sampled_from(["check", "prepare"]), FILES | WORDS).map(list),
    st.tuples(st.just("plan"), st.sampled_from(["--size", "--frames", "--memory"]), WORDS | NUMBERS).map(list),
    st.lists(WORDS, max_size=3),
)


@dataclass
class Place:
    """Where the commands run, and what is there."""

    folder: Path
    names: set[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(0)
    video = Video(rng.integers(0, 255, (9, 32, 32, 3), np.uint8), 8)
    for name in ("good.mp4", "good.gif"):
        video.save(name)
    Image.fromarray(video.frames[0]).save("good.png")
    Image.fromarray(rng.integers(0, 65535, (20, 30)).astype(np.uint16)).save("gray16.png")
    Image.fromarray(rng.integers(0, 255, (20, 30, 4), np.uint8)).save("alpha.png")
    for name in ("good.mp4", "good.gif", "good.png"):
        content = bytearray(Path(name).read_bytes())
        Path(name.replace("good", "cut")).write_bytes(content[: len(content) // 2])
        for place in rng.integers(0, len(content), 40):
            content[place] ^= 0xFF
        Path(name.replace("good", "flipped")).write_bytes(content)
    Path("good.mp4.png").write_bytes(Path("good.mp4").read_bytes())
    for name in ("empty.mp4", "empty.png", "empty.txt"):
        Path(name).touch()
    for name in ("text.mp4", "text.png"):
        Path(name).write_text("not a picture")
    Path("folder").mkdir()
    Path("jobs.jsonl").write_text('{"prompt": "a", "steps": 1}\n')
    Path("jobs.csv").write_text("prompt,steps\na,1\n")
    Path("bad.jsonl").write_text('{"prompt": ')
    yield Place(folder, {path.name for path in folder.iterdir()})
    os.chdir(before)


def run(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("lines", [generate_lines, other_lines], ids=["generate", "others"])
def test_no_command_line_and_no_file_breaks_it(
    lines: st.SearchStrategy[list[str]], place: Place, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGWORKS_SETTINGS", str(place.folder / "no-settings.yaml"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("cogworks.pipelines.job.load", cache(load))  # a thousand commands, one model

    @settings(
        max_examples=EXAMPLES // 2,
        deadline=SECONDS * 1000,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(lines)
    def check(words: list[str]) -> None:
        if words[:1] == ["generate"]:
            words = [*words, "--model", model, *([] if "--steps" in words else ["--steps", "1"])]
        code, _, err = run(words)
        assert code in STATUSES, words
        assert "Traceback" not in err, (words, err)
        assert "bug of Cogworks" not in err, (words, err)
        if code == 2:
            assert err.strip(), words
        for path in place.folder.rglob("*"):
            assert ".part" not in path.name, words
            if path.name not in place.names and path.is_file():
                path.unlink()

    check()
