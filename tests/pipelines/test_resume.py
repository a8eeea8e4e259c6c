"""Runs that are interrupted go on to the same pixels, bitwise; a file that is not theirs is not taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cogworks.config.measures import Measures
from cogworks.errors import RequestError
from cogworks.models.transformer import Transformer
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.progress import Progress
from cogworks.pipelines.resume import RunCheckpoint
from cogworks.video import Video

Small = Callable[..., Pipeline]
STEPS = 6
SAMPLERS = ["ddim", "dpm", "dpm_ode", "ddpm"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> RunCheckpoint:
    """Kept after every step."""
    return RunCheckpoint(tmp_path / "run", "key", every_steps=1)


def source(name: str) -> dict[str, Any]:
    frames = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return {"small-i2v": {"image": frames[0]}, "small-1.5": {"video": Video(frames, 5), "strength": 1.0}}.get(name, {})


def run(pipeline: Pipeline, **asked: Any) -> np.ndarray:
    made = pipeline.generate("a red circle", seed=3, **{"num_inference_steps": STEPS, **asked})
    assert isinstance(made, Video)
    return made.frames


def interrupt_after(step: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("steps", step):
            raise KeyboardInterrupt

    return on_progress


def interrupted(pipeline: Pipeline, step: int, **asked: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, on_progress=interrupt_after(step), **asked)


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that the transformer is asked for."""
    asked, right = [], Transformer.predict

    def predict(self: Transformer, *arguments: Any, **options: Any) -> torch.Tensor:
        asked.append(options["step"].index)
        return right(self, *arguments, **options)

    monkeypatch.setattr(Transformer, "predict", predict)
    return asked


@pytest.mark.parametrize("step", [1, 4, STEPS])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_goes_on_to_the_same_pixels(
    small: Small, checkpoint: RunCheckpoint, sampler: str, step: int, steps_done: list[int]
) -> None:
    expected = run(small("small"), sampler=sampler)
    interrupted(small("small"), step, sampler=sampler, checkpoint=checkpoint)
    steps_done.clear()
    told: list[Progress] = []
    again = run(small("small"), sampler=sampler, checkpoint=checkpoint, on_progress=told.append)
    assert np.array_equal(again, expected)
    assert steps_done == list(range(step, STEPS))
    assert [progress.done for progress in told if progress.phase == "steps"] == list(range(step, STEPS + 1))
    assert "encode" not in {progress.phase for progress in told}


@pytest.mark.parametrize("name", ["small-i2v", "small-1.5"])
def test_so_does_one_that_began_from_a_picture(
    fresh: Small, checkpoint: RunCheckpoint, name: str, reads: list[str]
) -> None:
    """Neither text encoder nor the VAE's encoder are needed again."""
    asked = {"sampler": "dpm", **source(name), "checkpoint": checkpoint}
    expected = run(fresh(name), **{**asked, "checkpoint": None})
    interrupted(fresh(name), 3, **asked)
    reads.clear()
    assert np.array_equal(run(fresh(name), **asked), expected)
    assert reads == ["Transformer", "VAE"]


def test_a_batch_under_measures_and_without_guidance(small: Small, checkpoint: RunCheckpoint) -> None:
    pipeline = small("small")
    pipeline.measures = Measures(offload=True, slicing=True)
    asked = {"seed": [1, 2], "num_videos_per_prompt": 2, "guidance_scale": 1.0, "sampler": "dpm", "output_type": "pt"}
    expected = pipeline.generate(["a", "b"], **asked)
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate(["a", "b"], **asked, checkpoint=checkpoint, on_progress=interrupt_after(2))
    assert torch.equal(pipeline.generate(["a", "b"], **asked, checkpoint=checkpoint), expected)


def test_what_the_steps_depend_on_is_all_there(small: Small, checkpoint: RunCheckpoint) -> None:
    """Negative control: with the estimate of another step a second-order sampler ends elsewhere."""
    expected = run(small("small"), sampler="dpm_ode")
    interrupted(small("small"), 3, sampler="dpm_ode", checkpoint=checkpoint)
    blank = torch.zeros(1, 4, 3, 4, 4)
    state = checkpoint.read(blank, STEPS)
    assert state is not None
    checkpoint.keep(replace(state, estimate=blank))
    assert not np.array_equal(run(small("small"), sampler="dpm_ode", checkpoint=checkpoint), expected)


# ---- when it is kept


@pytest.mark.parametrize(
    ("every_steps", "every_seconds", "kept"),
    [(1, 1e9, [1, 2, 3, 4, 5, 6]), (4, 1e9, [4, 6]), (100, 1e9, [6]), (100, 0.0, [1, 2, 3, 4, 5, 6])],
)
def test_how_often_it_is_kept(
    small: Small, tmp_path: Path, every_steps: int, every_seconds: float, kept: list[int], monkeypatch: Any
) -> None:
    steps, right = [], RunCheckpoint.keep

    def keep(self: RunCheckpoint, state: Any) -> None:
        steps.append(state.steps)
        right(self, state)

    monkeypatch.setattr(RunCheckpoint, "keep", keep)
    run(small("small"), checkpoint=RunCheckpoint(tmp_path / "run", "key", every_steps, every_seconds))
    assert steps == kept


def test_every_so_many_steps_means_at_least_one(tmp_path: Path) -> None:
    for wrong in ({"every_steps": 0}, {"every_seconds": -1.0}, {"every_seconds": float("nan")}):
        with pytest.raises(RequestError, match="kept every so many steps, at least 1, or seconds"):
            RunCheckpoint(tmp_path / "run", "key", **wrong)


# ---- files that are not taken


def test_another_key_begins_anew_and_replaces(
    small: Small, checkpoint: RunCheckpoint, caplog: pytest.LogCaptureFixture, steps_done: list[int]
) -> None:
    run(small("small"), checkpoint=checkpoint)
    other = replace(checkpoint, key="another")
    steps_done.clear()
    run(small("small"), checkpoint=other)
    assert len(steps_done) == STEPS
    assert f"{checkpoint.path} is of another run: starting from the beginning" in caplog.text
    with safe_open(checkpoint.path, framework="pt") as file:
        assert file.metadata()["key"] == "another"


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "folder", "other version", "other shape"])
def test_a_file_that_cannot_be_used_begins_anew(
    small: Small, checkpoint: RunCheckpoint, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    expected = run(small("small"))
    interrupted(small("small"), 3, checkpoint=checkpoint, **({"num_frames": 1} if damage == "other shape" else {}))
    content = checkpoint.path.read_bytes()
    if damage == "folder":
        checkpoint.path.unlink()
        checkpoint.path.mkdir()
    elif damage == "other version":
        monkeypatch.setattr("cogworks.pipelines.resume.__version__", "0.0.0")
    elif damage != "other shape":
        checkpoint.path.write_bytes({"truncated": content[:-9], "empty": b"", "text": b"not a checkpoint"}[damage])
    assert np.array_equal(run(small("small"), checkpoint=checkpoint), expected)
    assert "starting from the beginning" in caplog.text


def test_a_disk_that_is_full_does_not_end_the_run(
    small: Small, checkpoint: RunCheckpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run(small("small"), checkpoint=checkpoint)
    assert "cannot be kept" in caplog.text
    assert "No space left on device" in caplog.text
    assert not checkpoint.path.exists()


def test_killed_while_writing_the_last_file_is_there(
    small: Small, checkpoint: RunCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing appears under the final name before it is whole; and what is left over is written over, and removed."""
    interrupted(small("small"), 2, checkpoint=checkpoint)
    whole = checkpoint.path.read_bytes()

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small("small"), checkpoint=checkpoint)
    assert checkpoint.path.read_bytes() == whole
    assert len(list(checkpoint.path.parent.iterdir())) == 2
    run(small("small"), checkpoint=checkpoint)
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run"]
    checkpoint.remove()
    checkpoint.remove()
    assert list(checkpoint.path.parent.iterdir()) == []


def test_going_on_is_announced(small: Small, checkpoint: RunCheckpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cogworks")
    interrupted(small("small"), 2, checkpoint=checkpoint)
    run(small("small"), checkpoint=checkpoint)
    assert f"going on after step 2 of {STEPS}" in caplog.text
