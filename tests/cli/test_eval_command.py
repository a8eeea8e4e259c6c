"""`cogworks eval` on a model that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogworks
from cogworks.evaluation.prompts import evaluation_prompts
from cogworks.evaluation.run import evaluate_model, reconstruct_clips

Run = Callable[..., Any]


def test_the_table_the_report_and_the_progress(run: Run, model: str) -> None:
    ran = run("eval", model, "--samples", 3, "--output", "reports/report.json")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "random: 3 prompts of held-out combinations, 2 steps of ddim, guidance 3"
    assert [line.split("  ")[1] for line in lines[1:6]] == ["all four", "shape", "colour", "motion", "background"]
    assert all("of 3 (" in line for line in lines[1:6])
    assert lines[6].startswith("VAE: 3 unseen clips, PSNR ")
    assert ran.err.splitlines()[:3] == ["loading, 1 MB", "generating and reading, 3 prompts", "reconstructing, 3 clips"]
    report = json.loads(Path("reports/report.json").read_text())
    assert [row["prompt"] for row in report["prompts"]["rows"]] == evaluation_prompts()[:3]
    assert [row["seed"] for row in report["prompts"]["rows"]] == [1, 2, 3]  # the numbers of their lines
    assert report["reconstruction"]["num_clips"] == 3


def test_json_is_the_report(run: Run, model: str) -> None:
    ran = run("eval", model, "--samples", 1, "--json", "-o", "report.json")
    printed, written = json.loads(ran.out), json.loads(Path("report.json").read_text())
    assert printed == written


@pytest.mark.parametrize("samples", [0, 101])
def test_samples_out_of_range(run: Run, model: str, samples: int) -> None:
    ran = run("eval", model, "--samples", samples)
    assert (ran.code, ran.out) == (2, "")
    assert "from 1 to 100" in ran.err


def test_a_report_is_not_overwritten_without_force(run: Run, model: str) -> None:
    Path("report.json").write_text("mine")
    assert run("eval", model, "--samples", 1, "-o", "report.json").code == 2
    assert Path("report.json").read_text() == "mine"
    assert run("eval", model, "--samples", 1, "-o", "report.json", "--force").code == 0


def test_the_batch_changes_nothing_that_is_seen(model: str) -> None:
    pipeline = cogworks.load(model)
    alone, together = (evaluate_model(pipeline, samples=4, batch=batch) for batch in (1, 4))
    assert alone.prompts == together.prompts
    # Rounding of batched sums may move a value by one level of 255 here and there.
    assert alone.reconstruction.psnr == pytest.approx(together.reconstruction.psnr, abs=0.01)


def test_clips_go_through_both_halves_of_the_vae(model: str) -> None:
    pipeline = cogworks.load(model)
    clips = np.random.default_rng(0).integers(0, 256, (2, 9, 32, 32, 3), dtype=np.uint8)
    again = reconstruct_clips(pipeline, clips)
    assert again.shape == clips.shape
    assert again.dtype == np.uint8
    alone = reconstruct_clips(pipeline, clips[1:])[0]
    np.testing.assert_allclose(again[1], alone.astype(float), atol=1)  # sums are rounded otherwise in a batch
    assert abs(again[0].astype(float) - alone).max() > 1
