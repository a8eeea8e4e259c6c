"""`--quantize` and `--compare-exact`: what they print, what a recipe keeps, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogworks.errors import RequestError
from cogworks.video import read_metadata

Run = Callable[..., Any]
PROMPT = "a red circle moves right"
DISTANCE = re.compile(
    r"against the exact run: latents (\S+)% off \((\S+) on average, (\S+) at most\), "
    r"pixels PSNR (\S+) dB, at most (\d+) of 255 levels off"
)


@pytest.mark.parametrize("quantize", ["int8", "int8-weights"])
def test_a_quantized_video_is_made_compared_shown_and_replayed(run: Run, model: str, quantize: str) -> None:
    made = run(
        "generate", PROMPT, "--model", model, "--seed", 3, "-o", "q.gif", "--quantize", quantize, "--compare-exact"
    )
    assert (made.code, made.out) == (0, "q.gif\n"), made.err
    assert sorted(path.name for path in Path().iterdir()) == ["q.gif"]  # the exact one leaves no file
    found = DISTANCE.search(made.err)
    assert found, made.err
    relative, mean, most, decibels, levels = map(float, found.groups())
    assert 0 < relative < 20
    assert 0 < mean < most
    assert 20 < decibels < 100
    assert levels >= 1
    assert f"quantize: {quantize}" in run("show", "q.gif").out
    replayed = run("replay", "q.gif")
    assert (replayed.code, "the pixels are equal" in replayed.err) == (0, True), replayed.err
    assert read_metadata(Path("q-replay.gif"))["cogworks"]["run"]["quantize"] == quantize  # type: ignore[index, call-overload]


def test_a_replay_takes_another_or_none(run: Run, model: str) -> None:
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "q.gif", "--quantize", "int8")
    run("generate", PROMPT, "--model", model, "--seed", 3, "-o", "exact.gif")
    for options, words in (
        (("--exact",), "quantize: int8 -> None"),
        (("--quantize", "int8-weights"), "quantize: int8 -> int8-weights"),
    ):
        ran = run("replay", "q.gif", "-o", "again.gif", "--force", *options)
        assert ran.code == 1
        assert words in ran.err
    run("replay", "q.gif", "-o", "again.gif", "--force", "--exact")
    pixels = [read_metadata(Path(name))["cogworks"]["pixels"] for name in ("again.gif", "exact.gif")]  # type: ignore[index]
    assert pixels[0] == pixels[1]


def test_json_has_the_distance_of_each(run: Run, model: str) -> None:
    common = ("generate", PROMPT, "--model", model, "--seed", 3, "--json", "--quantize", "int8-weights")
    ran = run(*common, "--num", 2, "--compare-exact", "-o", "{seed}.gif")
    assert ran.code == 0, ran.err
    values = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["path"] for each in values] == ["3.gif", "4.gif"]
    for each in values:
        distance = each["distance"]
        assert distance.keys() == {
            "latents_mean",
            "latents_max",
            "latents_relative",
            "pixels_mean",
            "pixels_max",
            "psnr",
        }
        assert 0 < distance["latents_mean"] < distance["latents_max"]
    assert "distance" not in json.loads(run(*common).out)


def test_a_result_is_reported_where_the_exact_one_cannot_be_made(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise RequestError("no room for it")

    monkeypatch.setattr("cogworks.pipelines.job.Workshop.generate", refuse)
    ran = run("generate", PROMPT, "--model", model, "-o", "q.gif", "--quantize", "int8-weights", "--compare-exact")
    assert (ran.code, ran.out) == (2, "q.gif\n")
    assert "no room for it" in ran.err
    assert Path("q.gif").exists()


def test_a_list_is_made_again_where_it_was_exact(run: Run, model: str) -> None:
    Path("list.txt").write_text(f"{PROMPT}\n")
    common = ("generate", "--batch", "list.txt", "--model", model, "--seed", 3, "-o", "v-{seed}.gif")
    assert run(*common).code == 0
    assert "is done already" in run(*common).err
    ran = run(*common, "--quantize", "int8", "--force")
    assert "is done already" not in ran.err
    assert ran.out == "v-3.gif\n"
    assert "is done already" in run(*common, "--quantize", "int8").err


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("generate", ("--quantize", "int4"), '"int8", "int8-weights"'),
        ("generate", ("--compare-exact",), "--compare-exact goes with --quantize alone"),
        ("generate", ("--compare-exact", "--quantize", "int8", "--plan"), "--compare-exact does not go with --plan"),
        ("eval", ("--quantize", "fp8"), '"int8", "int8-weights"'),
        ("plan", ("--quantize", "int4"), '"int8", "int8-weights"'),
    ],
)
def test_what_cannot_be_is_one_sentence(
    run: Run, model: str, verb: str, arguments: tuple[str, ...], words: str
) -> None:
    what = {"generate": (PROMPT, "--model", model), "eval": (model,), "plan": ("--model", model)}[verb]
    ran = run(verb, *what, *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "loading" not in ran.err
    assert not list(Path().iterdir())


def test_a_recipe_says_itself_what_is_quantized(run: Run) -> None:
    ran = run("plan", "recipe.yaml", "--quantize", "int8")
    assert ran.code == 2
    assert "a recipe says all of a run itself; quantize is for videos" in ran.err


def test_a_plan_says_it_and_counts_less(run: Run, model: str) -> None:
    plain, packed = (run("plan", "--model", model, *options) for options in ((), ("--quantize", "int8-weights")))
    assert "in 8 bits (int8-weights)" in packed.out
    assert "8 bits" not in plain.out
    values = json.loads(run("plan", "--model", model, "--quantize", "int8-weights", "--json").out)
    assert values["shape"]["quantize"] == "int8-weights"


def test_eval_judges_it_in_8_bits(run: Run, model: str) -> None:
    reports = []
    for options in ((), ("--quantize", "int8")):
        ran = run("eval", model, "--samples", 1, "--json", *options)
        assert ran.code == 0, ran.err
        reports.append(json.loads(ran.out))
    assert [report["quantize"] for report in reports] == [None, "int8"]
    assert reports[0]["vae"] == reports[1]["vae"] is not None  # the VAE is as it was


def test_the_distance_of_equal_results_is_none() -> None:
    import torch

    from cogworks.evaluation.figures.distance import Distance

    frames = np.zeros((2, 4, 4, 3), np.uint8)
    latents = torch.ones(1, 2, 2, 2, 2)
    same = Distance.between((frames, latents), (frames, latents.clone()))
    assert (same.latents_max, same.pixels_max, same.psnr) == (0, 0, None)
    assert "pixels equal" in str(same)
    assert json.dumps(same.to_json(), allow_nan=False)
    other = frames.copy()
    other[0, 0, 0, 0] = 255
    apart = Distance.between((other, latents * 1.5), (frames, latents))
    assert apart.latents_relative == pytest.approx(0.5)
    assert (apart.latents_mean, apart.pixels_max) == (0.5, 255)
    assert apart.psnr == pytest.approx(10 * np.log10(96))
