"""`cogworks replay` and `cogworks show`: the recipe in a file makes its pixels again, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cogworks import __version__
from cogworks.video import Video, read_metadata, read_video, write_video

Run = Callable[..., Any]
PROMPT = "a red circle moves right"
OPTIONS = ("--negative-prompt", "blue", "--dynamic-guidance", "--sampler", "dpm", "--steps", 3, "--fps", 5)


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif", "webp", "png"])
def test_a_replay_gives_equal_pixels_from_every_format(run: Run, model: str, ending: str) -> None:
    assert run("generate", PROMPT, "--model", model, "--seed", 3, *OPTIONS, "-o", f"out.{ending}").code == 0
    ran = run("replay", f"out.{ending}")
    assert (ran.code, ran.out) == (0, f"out-replay.{ending}\n"), ran.err
    assert "the pixels are equal" in ran.err


def test_a_replay_begins_from_the_same_video(run: Run, model: str) -> None:
    Video(np.full((9, 40, 32, 3), 200, np.uint8), 5).save("in.mp4")
    assert run("generate", PROMPT, "--model", model, "--video", "in.mp4", "--fit", "pad", "-o", "out.gif").code == 0
    assert "the pixels are equal" in run("replay", "out.gif").err
    Video(np.full((9, 40, 32, 3), 20, np.uint8), 5).save("in.mp4")
    ran = run("replay", "out.gif", "--force")
    assert ran.code == 1
    assert "content of video" in ran.err
    Path("in.mp4").unlink()
    ran = run("replay", "out.gif", "--force")
    assert ran.code == 2
    assert "give it with --video" in ran.err


def test_options_override_the_recipe(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "three.gif")
    run("generate", PROMPT, "--model", model, "--seed", 8, "--size", "48x32", "-o", "eight.gif")
    ran = run("replay", "three.gif", "--seed", 8, "--size", "48x32", "-o", "new.gif")
    assert ran.code == 0
    assert "equal" not in ran.err
    np.testing.assert_array_equal(read_video("new.gif").frames, read_video("eight.gif").frames)


def test_other_weights_are_named_as_the_difference(run: Run, model: str, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, "model")
    run("generate", PROMPT, "--model", "./model", "--seed", 3, "-o", "out.gif")
    (weights,) = Path("model/transformer").glob("*.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights)
    ran = run("replay", "out.gif")
    assert ran.code == 1
    assert "the pixels are not equal" in ran.err
    assert "weights: " in ran.err
    assert "version" not in ran.err


def test_another_number_of_threads_is_named_where_pixels_differ(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.gif")
    values: Any = read_metadata("out.gif")
    recipe = values["cogworks"]
    recipe["pixels"] = "0" * 64
    recipe["run"]["threads"] += 1
    recipe["versions"]["torch"] = "1.0"
    write_video("changed.gif", read_video("out.gif"), values)
    ran = run("replay", "changed.gif")
    assert ran.code == 1
    assert f"threads: {torch.get_num_threads() + 1} -> {torch.get_num_threads()}" in ran.err
    assert f"version of torch: 1.0 -> {torch.__version__}" in ran.err


@pytest.mark.parametrize("unknown", [False, True])
def test_the_measures_of_the_recipe_are_taken_again(run: Run, model: str, unknown: bool) -> None:
    """Those that it does not know, since it is older than they are, are not taken."""
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.gif")
    values: Any = read_metadata("out.gif")
    taken = values["cogworks"]["run"]["measures"]
    taken |= {"slicing": True, "strips": 16, "tile": [32, 24]}
    if unknown:
        del taken["strips"]
    write_video("changed.gif", read_video("out.gif"), values)
    run("replay", "changed.gif")
    again: Any = read_metadata("changed-replay.gif")
    assert again["cogworks"]["run"]["measures"] == {"strips": 1, **taken}


def test_tiles_have_to_be_asked_for(run: Run, model: str) -> None:
    common = ("--model", model, "--seed", 3, "--size", "64x64")
    assert run("generate", PROMPT, *common, "-o", "whole.gif", "--memory", "1MB").code == 0
    assert run("generate", PROMPT, *common, "-o", "tiled.gif", "--tile", "32x24").code == 0
    taken: list[Any] = [read_metadata(f"{name}.gif")["cogworks"]["run"]["measures"] for name in ("whole", "tiled")]
    assert [measures["tile"] for measures in taken] == [None, [24, 32]]
    assert "the pixels are equal" in run("replay", "tiled.gif").err
    ran = run("replay", "tiled.gif", "--exact", "-o", "again.gif")
    assert "measures" in ran.err
    np.testing.assert_array_equal(read_video("again.gif").frames, read_video("whole.gif").frames)
    refused = run("replay", "tiled.gif", "--exact", "--tile", "32x32")
    assert (refused.code, "--tile changes pixels: give it or --exact, not both" in refused.err) == (2, True)


def test_show_prints_the_recipe(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4")
    shown = yaml.safe_load(run("show", "out.mp4").out)
    as_json = json.loads(run("show", "out.mp4", "--json").out)
    assert shown["request"]["prompt"] == as_json["request"]["prompt"] == PROMPT
    assert as_json["versions"]["cogworks"] == __version__
    assert as_json["run"]["device"] == "cpu"
    assert len(as_json["pixels"]) == len(as_json["weights"]) == 64


def test_no_metadata_leaves_it_out(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "out.mp4", "--no-metadata")
    assert read_metadata("out.mp4") == {}
    for verb in ("show", "replay"):
        ran = run(verb, "out.mp4")
        assert ran.code == 2
        assert "holds no recipe" in ran.err


def test_a_damaged_recipe_is_one_sentence(run: Run, model: str) -> None:
    write_video("out.gif", Video(np.zeros((2, 8, 8, 3), np.uint8), 8), {"cogworks": {"request": {"prompt": ""}}})
    ran = run("replay", "out.gif")
    assert ran.code == 2
    assert "damaged recipe" in ran.err
    assert len(ran.err.splitlines()) == 1
