"""Which checkpoints a run writes and keeps, and how it stops when it is told to."""

from __future__ import annotations

import errno
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.errors import RecipeError, RunError
from cogworks.training.run import train
from cogworks.training.safety import keep
from cogworks.training.safety.checkpoints import last_good_checkpoint, read_checkpoint, step_file, write_checkpoint
from cogworks.training.transformer.module import TransformerModule
from helpers.small_runs import same, save_small_model, small_recipe, state_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "small")


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def often(**values: Any) -> dict[str, Any]:
    return {"minutes": 1e-9, **values}


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, part: int, action: Any) -> None:
    """Call `action` in the middle of a step, in one of its parts."""
    backward, parts = TransformerModule.backward, [0]

    def interrupted(self: TransformerModule, loss: Any, *args: Any, **kwargs: Any) -> None:
        backward(self, loss, *args, **kwargs)
        parts[0] = parts[0] + 1 if self.global_step == step else 0
        if parts[0] == part:
            action()

    monkeypatch.setattr(TransformerModule, "backward", interrupted)


def test_the_newest_the_best_and_every_nth_are_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "LEAST_STEPS", 1)
    means = iter([5.0, 2.0, 4.0, 3.0, 6.0, 7.0])
    monkeypatch.setattr(keep.KeepCheckpoints, "_mean", lambda self, trainer: next(means))
    train(small_recipe(model, tmp_path, steps=6, checkpoints=often(keep=2, every_steps=3)))
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "step000003.ckpt", "step000005.ckpt", "step000006.ckpt"]
    folder = tmp_path / "checkpoints"
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 2
    assert (folder / "last.ckpt").samefile(folder / "step000006.ckpt")


def test_without_a_reason_there_is_only_the_last(model: Path, tmp_path: Path) -> None:
    train(small_recipe(model, tmp_path, steps=2, checkpoints={"minutes": 60, "best": False}))
    assert names(tmp_path) == ["last.ckpt", "step000002.ckpt"]


def test_the_mean_loss_of_a_few_steps_is_not_the_best(model: Path, tmp_path: Path) -> None:
    train(small_recipe(model, tmp_path, steps=3, checkpoints=often(keep=3)))
    states = [read_checkpoint(step_file(tmp_path / "checkpoints", step)) for step in (2, 3)]
    kept = [state["callbacks"]["KeepCheckpoints"] for state in states]
    assert (kept[0]["best_step"], kept[0]["batches"]) == (None, 2)
    losses = states[1]["callbacks"]["Sentinel"]["losses"]
    assert kept[1]["best_step"] == 3  # at the end there is none better
    assert kept[1]["best"] == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_where_there_are_no_hard_links_names_are_copies(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(keep.os, "link", refused)
    train(small_recipe(model, tmp_path, steps=1))
    folder = tmp_path / "checkpoints"
    assert (folder / "last.ckpt").read_bytes() == (folder / "step000001.ckpt").read_bytes()
    assert not (folder / "last.ckpt").samefile(folder / "step000001.ckpt")


def test_leftovers_of_a_killed_run_are_removed(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(small_recipe(model, tmp_path, steps=2))
    folder = tmp_path / "checkpoints"
    (folder / ".step000003.ckpt.0123abcd.tmp").write_bytes(b"half")
    newest = step_file(folder, 2)
    newest.write_bytes(newest.read_bytes()[:1000])
    train(small_recipe(model, tmp_path, steps=3))
    assert "passed over a checkpoint" in caplog.text
    # The damaged one is neither taken for a newer one nor removed.
    assert names(tmp_path)[1:] == ["last.ckpt", "step000002.ckpt", "step000002.ckpt.damaged", "step000003.ckpt"]
    assert last_good_checkpoint(tmp_path) == step_file(folder, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_step_and_goes_on_as_if_nothing_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    values: dict[str, Any] = {"steps": 4, "accumulate": 2, "checkpoints": {"minutes": 60}}
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    train(small_recipe(model, tmp_path / "unbroken", **values))
    caplog.set_level(logging.INFO, "cogworks")
    with monkeypatch.context() as patch:
        at_step(patch, 1, 1, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt):
            train(small_recipe(model, tmp_path / "stopped", **values))
    assert "the run stops after this step" in caplog.text
    assert names(tmp_path / "stopped") == ["last.ckpt", "step000002.ckpt"]
    train(small_recipe(model, tmp_path / "stopped", **values))
    ends = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("unbroken", "stopped")]
    assert same(state_of(ends[0]), state_of(ends[1]))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_interrupt_does_not_wait_and_keeps_no_half_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 1, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        train(small_recipe(model, tmp_path, accumulate=2))
    assert [name for name in names(tmp_path) if name.startswith("step")] == ["step000001.ckpt"]


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(checkpoint: Any, file: Any) -> None:
        if checkpoint["global_step"] == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(checkpoint, file)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=r"No space left on device.*make room"):
            train(small_recipe(model, tmp_path / "stopped", steps=3))
    folder = tmp_path / "stopped" / "checkpoints"
    assert names(tmp_path / "stopped") == ["last.ckpt", "step000001.ckpt"]
    train(small_recipe(model, tmp_path / "stopped", steps=3))
    train(small_recipe(model, tmp_path / "unbroken", steps=3))
    ends = [read_checkpoint(each / "last.ckpt") for each in (folder, tmp_path / "unbroken" / "checkpoints")]
    assert same(state_of(ends[0]), state_of(ends[1]))


def test_another_lora_does_not_go_on_from_a_checkpoint(model: Path, tmp_path: Path) -> None:
    train(small_recipe(model, tmp_path, steps=1, lora={"rank": 2}))
    with pytest.raises(
        RecipeError, match=r"step000001.ckpt was made with lora.rank 2, and the recipe says 4: set it back"
    ):
        train(small_recipe(model, tmp_path, steps=2, lora={"rank": 4}))
    with pytest.raises(RecipeError, match="was made with lora"):
        train(small_recipe(model, tmp_path, steps=2))
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "step000001.ckpt"]


def test_a_checkpoint_that_is_written_by_hand_is_checked(model: Path, tmp_path: Path) -> None:
    write_checkpoint({"state_dict": {}}, step_file(tmp_path / "checkpoints", 1))
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole"):
        train(small_recipe(model, tmp_path))
