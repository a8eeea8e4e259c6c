"""`cogworks generate` from words to file: what it writes, what it prints where, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogworks import __version__
from cogworks.cli.generate import output_path, parse_size
from cogworks.errors import RequestError
from cogworks.pipelines.generate import Pipeline
from cogworks.video import Video, read_metadata, read_video

Run = Callable[..., Any]
PROMPT = "a red circle moves right"


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_writes_the_file_and_prints_its_path_alone(run: Run, model: str, name: str) -> None:
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", name)
    assert (ran.code, ran.out) == (0, f"{name}\n"), ran.err
    video = read_video(name)
    assert video.frames.shape == (9, 32, 32, 3)
    assert video.fps == pytest.approx(8, rel=0.01)  # a gif counts time in 1/100 s
    assert "seed 3" in ran.err


def test_one_line_a_phase_where_stderr_is_no_terminal(run: Run, model: str) -> None:
    ran = run("generate", PROMPT, "--model", model, "--seed", 3)
    lines = ran.err.splitlines()
    assert lines[:5] == ["loading", "reading the prompt", "sampling, 2 steps", "decoding, 3 latent frames", "writing"]
    assert len(lines) == 6
    assert "\x1b" not in ran.err


def test_bars_where_stderr_is_a_terminal(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ran.err)
    assert ran.out == "out.mp4\n"
    for text in ("loading", "reading the prompt", "2/2 steps", "3/3 latent frames", "writing", "0:00:0"):
        assert text in plain


def test_the_name_comes_from_prompt_and_seed_and_the_seed_is_drawn(run: Run, model: str) -> None:
    first = run("generate", PROMPT, "--model", model, "-o", "videos")
    second = run("generate", PROMPT, "--model", model, "-o", "videos")
    paths = [Path(ran.out.strip()) for ran in (first, second)]
    assert all(path.is_file() and path.parent == Path("videos") for path in paths)
    assert all(path.name.startswith("a-red-circle-moves-right-") and path.suffix == ".mp4" for path in paths)
    assert paths[0] != paths[1]


def test_the_same_seed_gives_the_same_file_and_another_does_not(run: Run, model: str) -> None:
    for name, seed in (("a.gif", 5), ("b.gif", 5), ("c.gif", 6)):
        assert run("generate", PROMPT, "--model", model, "--seed", seed, "-o", name).code == 0
    a, b, c = (read_video(name).frames for name in ("a.gif", "b.gif", "c.gif"))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_json_is_one_object_with_all_it_takes_to_repeat(run: Run, model: str) -> None:
    options = ("--steps", 3, "--frames", 1, "--size", "48x32", "--guidance", 2, "--fps", 4, "--sampler", "dpm-ode")
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4", "--json", *options)
    found = json.loads(ran.out)
    assert found["path"] == "out.mp4"
    assert found["cogworks"] == __version__
    assert found["model"] == model
    assert found["request"] == {
        "prompt": PROMPT,
        "negative_prompt": None,
        "height": 32,
        "width": 48,
        "num_frames": 1,
        "fps": 4.0,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "use_dynamic_cfg": False,
        "sampler": "dpm-ode",
        "seed": 3,
    }
    assert read_metadata("out.mp4") == {key: found[key] for key in ("cogworks", "model", "request")}


def test_the_recipe_in_a_file_makes_its_frames_again(run: Run, model: str) -> None:
    import cogworks

    run("generate", PROMPT, "--model", model, "--negative-prompt", "blue", "--dynamic-guidance", "-o", "out.gif")
    recipe = read_metadata("out.gif")
    cogworks.load(recipe["model"]).generate(**recipe["request"]).save("again.gif")
    np.testing.assert_array_equal(read_video("out.gif").frames, read_video("again.gif").frames)


def test_a_video_is_begun_from_and_strength_says_how_far_from_it(run: Run, model: str) -> None:
    Video(np.full((9, 32, 32, 3), 200, np.uint8), 5).save("in.mp4")
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "--steps", 4, "--video", "in.mp4")
    for name, options in (("default.gif", ()), ("little.gif", ("--strength", 0.25))):
        ran = run(*common, *options, "-o", name)
        assert ran.code == 0, ran.err
    assert read_video("default.gif").fps == pytest.approx(5)  # the video's own
    assert (read_video("default.gif").frames != read_video("little.gif").frames).any()
    assert (
        read_metadata("little.gif")["request"] | {"video": "in.mp4", "strength": 0.25}
        == (read_metadata("little.gif")["request"])
    )


def test_an_image_for_a_text_to_video_model_names_those_that_take_one(run: Run, model: str) -> None:
    Image.new("RGB", (32, 32)).save("first.png")
    ran = run("generate", PROMPT, "--model", model, "--image", "first.png", "-o", "out.mp4")
    assert ran.code == 2
    assert "cogvideox-5b-i2v" in ran.err
    assert ran.out == ""
    assert not Path("out.mp4").exists()


def test_what_a_named_model_cannot_begin_from_is_said_before_it_is_loaded(run: Run) -> None:
    Image.new("RGB", (32, 32)).save("first.png")
    for model, options, words in (
        ("cogvideox-2b", ("--image", "first.png"), "cogvideox-5b-i2v"),
        ("cogvideox-5b-i2v", (), "needs an image"),
    ):
        ran = run("generate", PROMPT, "--model", model, *options)
        assert ran.code == 2
        assert words in ran.err
        assert "loading" not in ran.err


def test_no_file_is_overwritten_without_force(run: Run, model: str) -> None:
    Path("out.gif").write_text("mine")
    common = ("generate", PROMPT, "--model", model, "-o", "out.gif")
    ran = run(*common)
    assert ran.code == 2
    assert "--force" in ran.err
    assert Path("out.gif").read_text() == "mine"
    assert run(*common, "--force").code == 0
    assert read_video("out.gif").num_frames == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "64"), "720x480"),
        (("--size", "30x32"), "the nearest is 32"),
        (("--frames", "10"), "the nearest is 9"),
        (("--frames", "0"), "--frames"),
        (("--steps", "many"), "--steps"),
        (("--strength", "0.5"), "--video"),
        (("--strength", "1.5", "--video", "in.mp4"), "strength"),
        (("--image", "first.png", "--video", "in.mp4"), "not both"),
        (("--image", "missing.png"), "missing.png"),
        (("--video", "first.png.txt"), "first.png.txt"),
        (("--guidance", "-1"), "guidance"),
        (("--sampler", "euler"), "dpm-ode"),
        (("-o", "out.avi"), ".mp4"),
        (("--model", "tinny"), "did you mean tiny?"),
        (("--promt", "x"), "Unknown option: --promt"),
        (("--stepz", "4"), "Did you mean --steps?"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    run: Run, model: str, arguments: tuple[str, ...], words: str
) -> None:
    Image.new("RGB", (32, 32)).save("first.png")
    Path("first.png.txt").write_text("no video")
    Video(np.zeros((9, 32, 32, 3), np.uint8), 8).save("in.mp4")
    before = sorted(Path().iterdir())
    chosen = () if "--model" in arguments else ("--model", model)
    ran = run("generate", PROMPT, *chosen, *arguments)
    message = ran.err.splitlines()[-1]
    assert ran.code == 2
    assert message.startswith("error: ")
    assert words in message
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert sorted(Path().iterdir()) == before


def test_ctrl_c_leaves_with_130_and_nothing_else(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "_decode", interrupted)
    ran = run("generate", PROMPT, "--model", model, "-o", "out.mp4")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "interrupted"
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_a_real_ctrl_c(model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cogworks", "generate", PROMPT, "--model", model, "--steps", "1000"]
    command += ["--size", "128x128"]  # minutes of work
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore Ctrl-C, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("sampling"):
        assert line, "it ended before it sampled"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogworks.video import write

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write._Mp4Sink, "close", interrupted)
    assert run("generate", PROMPT, "--model", model, "-o", "out.mp4").code == 130
    assert list(Path().iterdir()) == []


def test_a_folder_that_cannot_be_written_is_the_persons_to_change(run: Run, model: str) -> None:
    Path("file").write_text("")
    ran = run("generate", PROMPT, "--model", model, "-o", "file/out.mp4")
    assert ran.code == 2
    assert "Traceback" not in ran.err


def test_sizes() -> None:
    assert parse_size("720X480") == (720, 480)
    for text in ("720", "720x", "0x8", "-8x8", "8x8x8", "720 x 480"):
        with pytest.raises(RequestError, match="width x height"):
            parse_size(text)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, moving RIGHT!", "a-red-circle-moving-right-1.mp4"),
        ("../../etc/passwd", "etc-passwd-1.mp4"),
        ("", "video-1.mp4"),
        ("一只熊猫", "一只熊猫-1.mp4"),
    ],
)
def test_names_of_files(prompt: str, name: str) -> None:
    assert output_path(Path("videos"), prompt, 1) == Path("videos") / name


def test_names_of_files_fit_every_file_system() -> None:
    assert len(output_path(Path(), "熊" * 300, 2**31 - 1).name.encode()) < 255
