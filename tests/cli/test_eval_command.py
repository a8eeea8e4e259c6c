"""`cogworks eval` on a model that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogworks
from cogworks.evaluation.run import evaluate
from cogworks.evaluation.shapes.prompts import evaluation_prompts, two_object_prompts
from cogworks.evaluation.shapes.suite import shapes_suite
from cogworks.video import Video

Run = Callable[..., Any]


def test_the_table_the_report_and_the_progress(run: Run, model: str) -> None:
    ran = run("eval", model, "--samples", 2, "--report", "reports/first")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "random: suite shapes, 4 videos, 2 steps of ddim, guidance 3"
    shares = ["all four", "shape", "colour", "motion", "background"]
    for start, group in ((1, "one object, 2 cases"), (7, "two objects, 2 cases")):
        assert lines[start] == group
        assert [line.split("  ")[1] for line in lines[start + 1 : start + 6]] == shares
        assert all("of 2 (" in line for line in lines[start + 1 : start + 6])
    assert lines[13] == "VAE, 2 unseen clips of each kind"
    assert ran.err.splitlines() == [
        *("loading, 1 MB", "generating and reading, 4 videos", "reconstructing, 6 clips", "wrote reports/first")
    ]
    report = json.loads(Path("reports/first/report.json").read_text())
    assert [case["prompt"] for case in report["cases"]] == [*evaluation_prompts()[:2], *two_object_prompts()[:2]]
    assert [case["seed"] for case in report["cases"]] == [1, 2, 1, 2]  # the numbers of their lines
    page = Path("reports/first/index.html").read_text()
    assert evaluation_prompts()[0] in page
    assert len(list(Path("reports/first/videos").iterdir())) == 4


def test_a_run_goes_on_where_its_report_is(run: Run, model: str) -> None:
    first = run("eval", model, "--samples", 1, "--report", "report")
    again = run("eval", model, "--samples", 1, "--report", "report", "--batch", 1)
    assert again.out == first.out
    assert again.err.splitlines() == ["2 of 2 videos are there already", "wrote report"]
    anew = run("eval", model, "--samples", 1, "--report", "report", "--force")
    assert anew.out == first.out
    assert anew.err == first.err


def test_json_is_the_report(run: Run, model: str) -> None:
    ran = run("eval", model, "--samples", 1, "--json", "--report", "report")
    assert json.loads(ran.out) == json.loads(Path("report/report.json").read_text())


def test_a_report_against_another(run: Run, model: str) -> None:
    run("eval", model, "--samples", 1, "--report", "report")
    before = Path("report/index.html").read_text()
    ran = run("eval", model, "--samples", 1, "--report", "report", "--against", "report")
    assert ran.code == 0, ran.err
    table, comparison = ran.out.split("\n\n", 1)
    assert table.startswith("random: ")
    assert "2 cases in common" in comparison.splitlines()[0]
    assert "in common" not in before
    assert "in common" in Path("report/index.html").read_text()
    told = run("eval", model, "--samples", 1, "--report", "report", "--against", "report/report.json", "--json")
    assert json.loads(told.out)["against"]["groups"]["one object"]["total"] == 1


def test_a_suite_of_ones_own_laid_out_for_vbench(run: Run, model: str) -> None:
    Video(np.full((9, 32, 32, 3), 100, np.uint8), 8).save("reference.mp4")
    lines = [{"prompt": "a cat", "reference": "reference.mp4"}, {"prompt": "a dog", "seed": 7, "group": "dogs"}]
    Path("mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ran = run("eval", model, "--suite", "mine.jsonl", "--report", "report", "--vbench", "vbench")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].startswith("random: suite mine.jsonl, 2 videos")
    assert ran.out.splitlines()[-1].startswith("left out: CLIP score")
    assert "VAE" not in ran.out
    assert ran.err.splitlines()[-1] == "laid out 2 videos in vbench"
    report = json.loads(Path("report/report.json").read_text())
    assert set(report["cases"][0]["measures"]) >= {"flicker", "motion", "PSNR", "SSIM"}
    assert report["cases"][1]["seed"] == 7
    assert sorted(path.name for path in Path("report/videos").iterdir()) == ["0001.mp4", "0002.mp4"]
    assert sorted(path.name for path in Path("vbench/videos").iterdir()) == ["a cat-0.mp4", "a dog-0.mp4"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples", "0"], "from 1 to 200"),
        (["--samples", "201"], "from 1 to 200"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--suite", "shape"], "no suite 'shape'"),
        (["--suite", "missing.jsonl"], "missing.jsonl"),
        (["--vbench", "there"], "--report DIR"),
        (["--against", "missing"], "no report at missing"),
        (["--clip", "missing"], "no CLIP model"),
        (["--output", "report.json"], "--output"),
    ],
)
def test_what_cannot_be_asked(run: Run, model: str, options: list[str], said: str) -> None:
    ran = run("eval", model, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "loading" not in ran.err  # it is known before any network is read
    assert list(Path().iterdir()) == []


def test_a_report_of_another_run_is_not_replaced_without_force(run: Run, model: str) -> None:
    run("eval", model, "--samples", 1, "--report", "report")
    before = Path("report/report.json").read_text()
    other = run("eval", model, "--samples", 1, "--report", "report", "--quantize", "int8-weights")
    assert other.code == 2
    assert "differs in quantize (none there, int8-weights now)" in other.err
    assert Path("report/report.json").read_text() == before
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    assert "other files (thesis.txt)" in run("eval", model, "--samples", 1, "--report", "mine", "--force").err


def test_an_interrupted_run_says_how_to_go_on(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cogworks.Pipeline, "generate", interrupted)
    ran = run("eval", model, "--samples", 1, "--report", "report")
    assert ran.code == 130
    assert "the same command goes on after the videos that are in report" in ran.err


def test_the_batch_changes_nothing_that_is_seen(model: str) -> None:
    pipeline = cogworks.load(model)
    suite = shapes_suite(takes_image=False)
    alone, together = (evaluate(pipeline, suite, samples=3, batch=batch) for batch in (1, 3))
    assert alone.outcomes == together.outcomes
    assert alone.vae is not None
    assert together.vae is not None
    # Rounding of batched sums may move a value by one level of 255 here and there.
    assert alone.vae.one_object.psnr.mean == pytest.approx(together.vae.one_object.psnr.mean, abs=0.01)
