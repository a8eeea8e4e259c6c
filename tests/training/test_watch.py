"""What a run tells of itself: rows, lines, events, and their meaning."""

from __future__ import annotations

import csv
import io
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.variants import COGVIDEOX_15_5B, TINY
from cogworks.training.clips.batches import LatentBatch, PixelBatch
from cogworks.training.optim import Muon, MuonAndAdamW
from cogworks.training.run import train
from cogworks.training.watching.metrics_file import METRICS, MetricsFile, read_metrics
from cogworks.training.watching.watch import in_words, learning_rates, peak_resident, sample_tokens


def recipe(output: Path, **values: Any) -> TransformerRecipe:
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": "tiny",
        "output": str(output),
        "steps": 4,
        "batch_size": 2,
        "accumulate": 2,
        "threads": 1,
        "log_every": 2,
        "optimizer": {"learning_rate": 0.001},
        "learning_rate": {"warmup_steps": 0},
        "lora": {"rank": 1, "targets": ["blocks.0.attention.out"]},
        "data": {"kind": "shapes", "size": 16, "frames": 1},
        **values,
    }
    parsed = parse_recipe(complete, "test")
    assert isinstance(parsed, TransformerRecipe)
    return parsed


def test_a_run_logs_how_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cogworks"):
        train(recipe(tmp_path))
    rows = read_metrics(tmp_path / METRICS)
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row["learning_rate"] == pytest.approx(0.001)
        assert row["gradient_norm"] > 0
        # One latent frame of 2x2, in patches of 2x2: one token beside 32 of text.
        assert row["tokens_per_second"] == pytest.approx(33 * row["samples_per_second"], rel=1e-6)
        assert 10**8 < row["memory/process"] <= 1.001 * peak_resident()  # logged as float32
        bands = [value for name, value in row.items() if name.startswith("loss/band_") and not math.isnan(value)]
        assert min(bands) <= row["loss/mean"] <= max(bands)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step")]
    assert lines[0].startswith(f"step 2 of 4: loss {rows[0]['loss/mean']:.4g}, ")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("step 4 of 4: loss ")
    assert not lines[1].endswith(" left")
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_gradient_norm_is_that_before_clipping(tmp_path: Path) -> None:
    for clip in (None, 1e-6):
        train(recipe(tmp_path / str(clip), steps=2, optimizer={"learning_rate": 1e-9, "clip_norm": clip}))
    free, clipped = (read_metrics(tmp_path / name / METRICS)[0]["gradient_norm"] for name in ("None", "1e-06"))
    assert clipped == free > 1e-4


def test_a_listener_hears_every_step_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO, logger="cogworks"):
        train(recipe(tmp_path, steps=3), on_step=lambda done, steps: heard.append((done, steps)))
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert not [record for record in caplog.records if record.getMessage().startswith("step")]


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown)
    train(recipe(tmp_path, steps=2))
    assert "training" in shown.getvalue()
    assert "2/2" in shown.getvalue()
    assert "0:00:0" in shown.getvalue()


def test_a_resumed_run_goes_on_with_the_same_file(tmp_path: Path) -> None:
    train(recipe(tmp_path, steps=2, log_every=1))
    before = (tmp_path / METRICS).read_text()
    train(recipe(tmp_path, steps=4, log_every=1))
    after = (tmp_path / METRICS).read_text()
    assert after.startswith(before)
    assert [row["step"] for row in read_metrics(tmp_path / METRICS)] == [1, 2, 3, 4]


def test_rows_survive_new_columns_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    first = MetricsFile(tmp_path)
    first.log_metrics({"loss": 0.5, "epoch": 0}, 1)
    first.log_metrics({"loss": torch.tensor(0.25), "other, name": 3.0}, 2)
    with path.open("a") as file:
        file.write("3,0.1")  # killed while writing
    second = MetricsFile(tmp_path)
    second.log_metrics({"loss": float("nan")}, 2)
    second.log_metrics({"figure": 1.0}, 3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "2", "3"]
    assert rows[0] == {"step": "1", "loss": "0.5", "other, name": "", "figure": ""}
    merged = read_metrics(path)
    assert math.isnan(merged[1]["loss"])  # the later row of a step is what counts
    assert merged[1]["other, name"] == 3.0
    assert merged[2] == {"step": 3.0, "figure": 1.0}


def test_tokens_of_a_sample() -> None:
    pixels = PixelBatch(torch.empty(1, 3, 81, 768, 1360, device="meta"), [""], 0)
    # 21 latent frames, one repeated to make pairs: 11 of 48x85 patches.
    assert sample_tokens(COGVIDEOX_15_5B, pixels) == 226 + 11 * 48 * 85
    latents = LatentBatch(torch.empty(1, 24, 5, 8, 8), [""], 0)
    assert sample_tokens(TINY, latents) == 32 + 5 * 4 * 4


def test_rates_of_optimizers_with_several_groups() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    both = MuonAndAdamW(Muon([a], lr=0.2), torch.optim.AdamW([b], lr=0.1))
    assert learning_rates(both) == {"learning_rate": 0.1, "learning_rate/matrices": 0.2}
    groups = torch.optim.AdamW([{"params": [a], "lr": 0.3}, {"params": [b], "lr": 0.4}])
    assert learning_rates(groups) == {"learning_rate": 0.3, "learning_rate/group_1": 0.4}


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (42, 600, 36000)] == ["42 s", "10 min", "10.0 h"]
