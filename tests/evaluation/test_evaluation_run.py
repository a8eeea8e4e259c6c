"""A run keeps what it has done, goes on after it, and comes to the same in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogworks
from cogworks.errors import RequestError
from cogworks.evaluation.case import Suite
from cogworks.evaluation.reports.report import Report
from cogworks.evaluation.run import evaluate, first_cases
from cogworks.evaluation.run_folder import read_report
from cogworks.evaluation.shapes.suite import judge, shapes_suite
from cogworks.pipelines.generate import Pipeline
from helpers.small_folder import SMALL, save_small

FAST = replace(SMALL, defaults=replace(SMALL.defaults, height=32, width=32, num_frames=9, steps=1))
IMAGES = replace(FAST, name="small-i2v", transformer=replace(FAST.transformer, in_channels=48))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A model for text and one for images."""
    home = tmp_path_factory.mktemp("models")
    return {False: save_small(home / "text", FAST), True: save_small(home / "image", IMAGES)}


@pytest.fixture
def pipeline(folders: dict[bool, Path]) -> Pipeline:
    return cogworks.load(folders[False])


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Three cases of one object, and two of two."""
    cases = shapes_suite(takes_image=False).cases
    return Suite("shapes", (*cases[:3], *cases[200:202]), judge, "five")


def without_time(report: Report) -> Report:
    return replace(report, seconds=0)


def counting(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[list[int]]:
    """The seeds of every call of `generate`; the call number `stop_at` is interrupted."""
    calls: list[list[int]] = []
    generate: Callable[..., Any] = pipeline.generate

    def counted(prompts: list[str], *, seed: list[int], **options: Any) -> Any:
        calls.append(seed)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return generate(prompts, seed=seed, **options)

    monkeypatch.setattr(pipeline, "generate", counted)
    return calls


def videos(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "videos").iterdir())}


def test_a_run_without_a_folder(pipeline: Pipeline, suite: Suite) -> None:
    progress: list[tuple[str, int, int]] = []
    report = evaluate(pipeline, suite, samples=2, batch=2, on_progress=lambda *step: progress.append(step))
    assert [outcome.number for outcome in report.outcomes] == [1, 2, 201, 202]
    assert (report.model, report.suite, report.settings) == ("small", "shapes", FAST.defaults)
    assert len(report.weights) == 64
    assert report.vae is not None
    assert report.vae.one_object.unchanged.total == 2
    made = [step for step in progress if step[0] != "load"]  # networks that an earlier test has read are there already
    assert made[:3] == [("videos", 0, 4), ("videos", 2, 4), ("videos", 4, 4)]
    assert {stage for stage, _, _ in made[3:]} == {"clips"}
    assert report.seconds > 0


def test_the_folder_of_a_run(pipeline: Pipeline, suite: Suite, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    report = evaluate(pipeline, suite, samples=1, folder=folder, left_out=("that",))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("cases.jsonl", "index.html", "report.json", "run.json", "vae.json", "videos")
    ]
    assert list(videos(folder)) == ["0001.gif", "0201.gif"]
    assert (
        replace(read_report(folder), seconds=report.seconds)
        == report
        == evaluate(pipeline, suite, samples=1, folder=folder, left_out=("that",))
    )
    assert read_report(folder / "report.json").left_out == ("that",)


def test_an_interrupted_run_goes_on_to_the_same_end(
    pipeline: Pipeline, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = evaluate(pipeline, suite, batch=2, folder=whole, samples=3)
    with monkeypatch.context() as patch:
        counting(pipeline, patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pipeline, suite, batch=2, folder=parts, samples=3)
    assert len((parts / "cases.jsonl").read_text().splitlines()) == 2
    assert not (parts / "report.json").exists()
    # One line of the batch is lost, and another one torn.
    lines = (parts / "cases.jsonl").read_text().splitlines(keepends=True)
    (parts / "cases.jsonl").write_text(lines[0] + lines[1][:20])
    calls = counting(pipeline, monkeypatch)
    report = evaluate(pipeline, suite, batch=2, folder=parts, samples=3)
    assert calls == [[1, 2], [3], [1, 2]]  # a batch of which something is missing is made again as it was
    assert without_time(report) == without_time(expected)
    assert videos(parts) == videos(whole)
    numbers = [json.loads(line)["number"] for line in (parts / "cases.jsonl").read_text().splitlines()]
    assert numbers == [1, 2, 3, 201, 202]


def test_what_is_done_is_not_made_again(
    pipeline: Pipeline, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(pipeline, monkeypatch)
    few = evaluate(pipeline, suite, samples=1, folder=tmp_path)
    assert calls == [[1], [1]]
    evaluate(pipeline, suite, samples=2, folder=tmp_path, batch=1)  # more of them, in other batches
    assert calls == [[1], [1], [2], [2]]
    assert without_time(evaluate(pipeline, suite, samples=1, folder=tmp_path)) == without_time(few)
    assert len(calls) == 4
    (tmp_path / "videos" / "0202.gif").unlink()  # its line alone does not count
    evaluate(pipeline, suite, samples=2, folder=tmp_path, batch=1)
    assert calls[4:] == [[2]]
    evaluate(pipeline, suite, samples=1, folder=tmp_path, force=True)
    assert calls[5:] == [[1], [1]]
    assert list(videos(tmp_path)) == ["0001.gif", "0201.gif"]


def test_another_run_is_not_mixed_in(pipeline: Pipeline, suite: Suite, tmp_path: Path) -> None:
    evaluate(pipeline, suite, samples=1, folder=tmp_path)
    before = (tmp_path / "cases.jsonl").read_bytes()
    pipeline.components.variant = replace(FAST, defaults=replace(FAST.defaults, steps=2, guidance_scale=1.5))
    with pytest.raises(RequestError, match=r"steps \(1 there, 2 now\), guidance_scale \(3.0 there, 1.5 now\); --force"):
        evaluate(pipeline, suite, samples=1, folder=tmp_path)
    pipeline.components.variant = FAST
    with pytest.raises(RequestError, match=r"cases \(five there, other now\)"):
        evaluate(pipeline, replace(suite, fingerprint="other"), samples=1, folder=tmp_path)
    assert (tmp_path / "cases.jsonl").read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_other_things_is_left_alone(
    pipeline: Pipeline, suite: Suite, tmp_path: Path, force: bool
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"holds other files \(thesis.txt\)"):
        evaluate(pipeline, suite, samples=1, folder=tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(RequestError, match="is a file"):
        evaluate(pipeline, suite, samples=1, folder=tmp_path / "thesis.txt", force=force)


@pytest.mark.parametrize("name", ["run.json", "cases.jsonl", "vae.json"])
def test_a_damaged_run_says_so(pipeline: Pipeline, suite: Suite, tmp_path: Path, name: str) -> None:
    evaluate(pipeline, suite, samples=1, folder=tmp_path)
    (tmp_path / name).write_text('{"half": \n')
    with pytest.raises(RequestError, match=f"{name} is damaged; --force"):
        evaluate(pipeline, suite, samples=1, folder=tmp_path)


def test_the_samples_of_every_group(suite: Suite) -> None:
    assert [case.number for case in first_cases(suite, 1)] == [1, 201]
    assert [case.number for case in first_cases(suite, 3)] == [1, 2, 3, 201, 202]
    assert first_cases(suite, None) == suite.cases
    for samples in (0, 4):
        with pytest.raises(RequestError, match="from 1 to 3"):
            first_cases(suite, samples)


def test_no_report_to_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no report"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(RequestError, match=r"report.json: .*evaluate the model again"):
        read_report(tmp_path)


def test_a_model_for_images(folders: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = cogworks.load(folders[True])
    images: list[np.ndarray] = []
    generate: Callable[..., Any] = pipeline.generate

    def seen(prompts: list[str], *, image: np.ndarray, **options: Any) -> Any:
        images.append(image)
        return generate(prompts, image=image, **options)

    monkeypatch.setattr(pipeline, "generate", seen)
    suite = shapes_suite(takes_image=True)
    report = evaluate(pipeline, suite, samples=2, folder=tmp_path)
    cases = [suite.cases[index] for index in (0, 1, 100, 101)]
    assert all(image is case.image for image, case in zip(images, cases, strict=True))
    assert list(report.groups) == ["rendered", "foreign"]
    assert report.groups["foreign"].measures["first frame PSNR"].count == 2
    assert list(videos(tmp_path)) == ["0001.gif", "0002.gif", "0101.gif", "0102.gif"]
