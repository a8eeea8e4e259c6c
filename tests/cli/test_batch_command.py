"""`cogworks generate --batch`: every line a video, what is done is skipped, what fails is listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogworks.pipelines.generate import Pipeline
from cogworks.video import read_metadata, read_video

Run = Callable[..., Any]


def frames(path: str | Path) -> Any:
    return read_video(path).frames


def test_a_line_a_video_with_the_lines_own_options(run: Run, model: str) -> None:
    lines = [
        {"prompt": "a red circle", "steps": 1, "output": "one.gif"},
        {"prompt": "a blue star", "size": "48x32", "seed": 9},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ran = run("generate", "--batch", "jobs.jsonl", "--model", model, "--steps", 2, "-o", "videos")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ["one.gif", "videos/a-blue-star-9.mp4"]
    first, second = (read_metadata(path)["cogworks"]["request"] for path in ran.out.splitlines())
    assert (first["num_inference_steps"], first["seed"]) == (1, 1)
    assert (second["num_inference_steps"], second["seed"], second["width"]) == (2, 9, 48)


def test_what_is_done_is_skipped_and_what_changed_is_not(run: Run, model: str) -> None:
    Path("jobs.txt").write_text("a red circle\na blue star\n")
    common = ("generate", "--batch", "jobs.txt", "--model", model, "-o", "{index}.gif")
    assert run(*common).out.splitlines() == ["0001.gif", "0002.gif"]
    written = Path("0001.gif").stat().st_mtime_ns
    again = run(*common)
    assert (again.code, again.out) == (0, "")
    assert again.err.count("is done already") == 2
    Path("jobs.txt").write_text("a red circle\na blue ring\n")
    changed = run(*common)
    assert changed.code == 1
    assert "0002.gif is already there" in changed.err
    assert run(*common, "--force").out.splitlines() == ["0002.gif"]
    assert Path("0001.gif").stat().st_mtime_ns == written


def test_a_list_goes_on_after_failures_and_lists_them_at_the_end(run: Run, model: str) -> None:
    lines = ['{"prompt": "a", "frames": 10}', '{"prompt": ', '{"prompt": "c", "output": "c.gif"}']
    Path("jobs.jsonl").write_text("\n".join(lines))
    ran = run("generate", "--batch", "jobs.jsonl", "--model", model)
    assert (ran.code, ran.out) == (1, "c.gif\n")
    summary = ran.err[ran.err.index("error: 2 of 3 jobs failed") :]
    assert "the nearest is 9" in summary
    assert "jobs.jsonl line 2: not valid JSON" in summary
    assert "Traceback" not in ran.err


def test_a_list_that_was_interrupted_goes_on_with_the_job_it_was_at(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("jobs.txt").write_text("a red circle\na blue star\n")
    common = ("generate", "--batch", "jobs.txt", "--model", model, "-o", "{index}.gif")
    real, calls = Pipeline.generate, []

    def second_is_interrupted(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["prompt"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "generate", second_is_interrupted)
    assert run(*common).code == 130
    assert [path.name for path in sorted(Path().iterdir())] == ["0001.gif", "jobs.txt"]
    assert run(*common).out == "0002.gif\n"
    assert calls == ["a red circle", "a blue star", "a blue star"]


def test_num_gives_different_videos_that_can_be_made_alone(run: Run, model: str) -> None:
    ran = run("generate", "a red circle", "--model", model, "--seed", 5, "--num", 3, "-o", "out.gif")
    assert ran.out.splitlines() == ["out-5.gif", "out-6.gif", "out-7.gif"], ran.err
    assert run("generate", "a red circle", "--model", model, "--seed", 6, "-o", "alone.gif").code == 0
    np.testing.assert_array_equal(frames("out-6.gif"), frames("alone.gif"))
    assert (frames("out-5.gif") != frames("out-6.gif")).any()
    assert (frames("out-6.gif") != frames("out-7.gif")).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a prompt", "--batch", "jobs.txt"), "not both"),
        (("--batch", "jobs.txt", "--num", 2), "--num does not go with --batch"),
        (("--batch", "none.txt"), "no list of jobs"),
        (("--batch", "jobs.txt", "-o", "one-{prompt}.gif"), "two videos would be called one-same.gif"),
        (("--batch", "jobs.txt", "-o", "{sead}.gif"), "{seed} and {index}"),
        ((), "say what the video should show"),
        (("a prompt", "--num", 0), "--num must be 1 or more"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(run: Run, arguments: tuple[object, ...], words: str) -> None:
    Path("jobs.txt").write_text("same\nsame\n")
    ran = run("generate", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "loading" not in ran.err


def test_a_prompt_from_a_file_and_from_standard_input(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    Path("prompt.txt").write_text("a red circle\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("a red circle\n"))
    for source, name in (("@prompt.txt", "a.gif"), ("-", "b.gif"), ("a red circle", "c.gif")):
        ran = run("generate", source, "--model", model, "--seed", 1, "-o", name)
        assert ran.code == 0, ran.err
    assert read_metadata("a.gif") == read_metadata("b.gif") == read_metadata("c.gif")
    assert run("generate", "@missing.txt", "--model", model).code == 2
