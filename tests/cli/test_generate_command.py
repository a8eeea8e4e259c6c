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
import torch
from PIL import Image

from cogworks import __version__
from cogworks.cli.naming import output_path
from cogworks.config.request import GenerationRequest
from cogworks.errors import VideoError
from cogworks.models.transformer import Transformer
from cogworks.models.vae import Decoder
from cogworks.nn.time_context import TimeContext
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.execution import Execution
from cogworks.video import Video, read_metadata, read_video

Run = Callable[..., Any]
PROMPT = "a red circle moves right"


def test_a_folder_of_frames_is_made_again_from_its_recipe(run: Run, model: str) -> None:
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "frames/%02d.png", "--resumable")
    assert (ran.code, ran.out) == (0, "frames/%02d.png\n"), ran.err
    assert sorted(path.name for path in Path().rglob("*")) == sorted(["frames", *(f"{i:02d}.png" for i in range(9))])
    again = run("replay", "frames/%02d.png", "-o", "again.gif")
    assert "the pixels are equal" in again.err


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
    assert lines[:-1] == [
        "reading the prompt",
        "loading the text encoder, 1 MB",
        "loading the transformer, 1 MB",
        "sampling, 2 steps",
        "loading the VAE, 1 MB",
        "decoding, 3 latent frames",
        "writing",
    ]
    assert "\x1b" not in ran.err


def test_bars_where_stderr_is_a_terminal(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ran.err)
    assert ran.out == "out.mp4\n"
    for text in (
        "loading the transformer",
        "1/1 MB",
        "reading the prompt",
        "2/2 steps",
        "3/3 latent frames",
        "writing",
        "0:00:0",
    ):
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
    assert found["versions"]["cogworks"] == __version__
    said = {name: value for name, value in found["request"].items() if value is not None}
    assert said == {
        "prompt": PROMPT,
        "model": model,
        "fit": "crop",
        "height": 32,
        "width": 48,
        "num_frames": 1,
        "fps": 4.0,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "use_dynamic_cfg": False,
        "sampler": "dpm_ode",
        "seed": 3,
        "loras": [],
    }
    (recipe,) = read_metadata("out.mp4").values()
    assert recipe == {key: found[key] for key in recipe}


def test_json_makes_every_line_on_stderr_an_event(run: Run, model: str) -> None:
    ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4", "--json", "--steps", 3)
    events = [json.loads(line) for line in ran.err.splitlines()]
    steps = [(event["done"], event["total"]) for event in events if event.get("phase") == "steps"]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    phases = [event["phase"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(phases)) == ["encode", "load", "steps", "decode", "write"]
    networks = [event["network"] for event in events if event.get("phase") == "load"]
    assert list(dict.fromkeys(networks)) == ["text encoder", "transformer", "VAE"]
    assert [e["seconds_left"] for e in events if e.get("phase") == "steps"][-1] == 0
    failed = run("generate", PROMPT, "--model", model, "--frames", 10, "--json")
    assert (failed.code, failed.out) == (2, "")
    assert json.loads(failed.err.splitlines()[-1])["event"] == "error"


def test_seconds_are_rounded_to_frames_that_the_model_makes(run: Run, model: str) -> None:
    assert run("generate", PROMPT, "--model", model, "--seconds", 1, "-o", "out.gif").code == 0
    assert read_video("out.gif").num_frames in (8, 9)


def test_upscale_enlarges_the_file_alone(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "small.gif")
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "large.gif", "--upscale", 2)
    assert read_video("large.gif").frames.shape == (9, 64, 64, 3)
    small, large = (read_metadata(name)["cogworks"] for name in ("small.gif", "large.gif"))
    assert small == large


def test_an_interrupted_run_goes_on_to_the_same_pixels(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "--steps", 12, "--sampler", "dpm")
    assert run(*common, "-o", "whole.gif").code == 0
    real, calls = Denoiser.__call__, []

    def interrupted_at_the_eighth(self: Denoiser, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Denoiser, "__call__", interrupted_at_the_eighth)
    stopped = run(*common, "-o", "out.gif", "--resumable")
    assert (stopped.code, stopped.out) == (130, "")
    assert "stopped at step 7 of 12; the same command with --seed 3 goes on from what is kept in .out.gif.resume" in (
        stopped.err
    )
    assert not Path("out.gif").exists()
    assert run(*common, "-o", "out.gif", "--resumable").code == 0
    assert len(calls) == 8 + 12 - 5  # the state was kept after the fifth step
    np.testing.assert_array_equal(read_video("whole.gif").frames, read_video("out.gif").frames)
    assert sorted(path.name for path in Path().iterdir()) == ["out.gif", "whole.gif"]


def test_a_run_that_takes_long_is_resumable_by_itself(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Execution, "decode", interrupted)
    for seconds, kept in ((599.0, []), (601.0, [".out.gif.resume"])):
        monkeypatch.setattr("cogworks.pipelines.planning.plan.Plan.seconds", seconds)
        ran = run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.gif")
        assert ran.code == 130
        assert ("the state of sampling is kept" in ran.err) == bool(kept)
        assert [path.name for path in Path().iterdir()] == kept


def test_a_file_that_cannot_be_written_costs_no_sampling(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.gif")

    def full(*args: object, **kwargs: object) -> None:
        raise VideoError("cannot write out.gif: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cogworks.pipelines.job.write_video", full)
        ran = run(*common)
    assert ran.code == 2
    assert "no space left" in ran.err
    assert ".out.gif.resume" in ran.err

    def sampled_again(*args: object) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(Denoiser, "__call__", sampled_again)
    assert run(*common).code == 0
    assert [path.name for path in Path().iterdir()] == ["out.gif"]


def test_a_video_is_begun_from_and_strength_says_how_far_from_it(run: Run, model: str) -> None:
    Video(np.full((9, 32, 32, 3), 200, np.uint8), 5).save("in.mp4")
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "--steps", 4, "--video", "in.mp4")
    for name, options in (("default.gif", ()), ("little.gif", ("--strength", 0.25))):
        ran = run(*common, *options, "-o", name)
        assert ran.code == 0, ran.err
    assert read_video("default.gif").fps == pytest.approx(5)  # the video's own
    assert (read_video("default.gif").frames != read_video("little.gif").frames).any()
    recipe = read_metadata("little.gif")["cogworks"]
    assert recipe["request"] | {"video": "in.mp4", "strength": 0.25} == recipe["request"]


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
        (("--size=-8x8",), "720x480"),
        (("--seconds", "1", "--frames", "9"), "not both"),
        (("--lora", "missing.safetensors"), "missing.safetensors"),
        (("--memory", "lots"), "8GB"),
        (("--tile", "60x64"), "the width of a tile must be a multiple of 8 pixels, got 60"),
        (("--tile", "large"), "720x480"),
        (("--dtype", "int8"), "float32"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--upscale", "0"), "upscale"),
        (("--size", "30x32"), "the nearest is 32"),
        (("--frames", "10"), "the nearest is 9"),
        (("--frames", "0"), "frames"),
        (("--steps", "many"), "--steps"),
        (("--strength", "0.5"), "give a video"),
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

    monkeypatch.setattr(Execution, "decode", interrupted)
    ran = run("generate", PROMPT, "--model", model, "-o", "out.mp4")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "interrupted"
    assert "out.mp4 was not written. With --resumable, the same command with --seed" in ran.err
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
    assert (process.returncode, out) == (130, "")
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogworks.video import sinks

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks.EncoderSink, "close", interrupted)
    assert run("generate", PROMPT, "--model", model, "-o", "out.mp4").code == 130
    assert list(Path().iterdir()) == []


def test_a_folder_that_cannot_be_written_is_the_persons_to_change(run: Run, model: str) -> None:
    Path("file").write_text("")
    ran = run("generate", PROMPT, "--model", model, "-o", "file/out.mp4")
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, moving RIGHT!", "a-red-circle-moving-right-1.mp4"),
        ("../../etc/passwd", "etc-passwd-1.mp4"),
        ("?", "video-1.mp4"),
        ("一只熊猫", "一只熊猫-1.mp4"),
    ],
)
def test_names_of_files(prompt: str, name: str) -> None:
    request = GenerationRequest(prompt=prompt, seed=1)
    assert output_path("videos", request, 1, many=False) == Path("videos") / name


def test_places_in_names_are_filled() -> None:
    request = GenerationRequest(prompt="a {seed} b", seed=7)
    assert output_path("x/{index}_{prompt}_{seed}.webm", request, 3, many=True) == Path("x/0003_a-seed-b_7.webm")
    assert output_path("x/%04d.png", request, 3, many=False) == Path("x/%04d.png")


def test_names_of_files_fit_every_file_system() -> None:
    request = GenerationRequest(prompt="熊" * 300, seed=2**31 - 1)
    assert len(output_path(".", request, 1, many=False).name.encode()) < 255


def test_tiles_decode_what_was_sampled_before_memory_ran_out(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole pictures do not fit, in strips or not; nothing is sampled again."""
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "--size", "64x64", "-o", "out.gif")
    right = Decoder.forward

    def forward(self: Decoder, latents: torch.Tensor, context: TimeContext) -> torch.Tensor:
        if latents.shape[3] > 4 and not latents.is_meta:  # plans may
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, latents, context)

    monkeypatch.setattr(Decoder, "forward", forward)
    ran = run(*common)
    assert ran.code == 1
    assert "memory ran out in decoding" in ran.err
    assert "--tile 256x256" in ran.err
    assert not Path("out.gif").exists()
    monkeypatch.setattr(Transformer, "predict", None)
    ran = run(*common, "--tile", "32x32")
    assert (ran.code, ran.out) == (0, "out.gif\n"), ran.err
    assert read_video("out.gif").num_frames == 9
