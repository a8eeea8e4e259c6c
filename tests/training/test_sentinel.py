"""What a sentinel notices, and what it does about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogworks.errors import RunError
from cogworks.training.clips.batches import Batch
from cogworks.training.run import train
from cogworks.training.safety import sentinel
from cogworks.training.safety.checkpoints import read_checkpoint, step_file, step_files
from cogworks.training.safety.sentinel import Sentinel, find_sample_fault
from cogworks.training.transformer.module import TransformerModule
from helpers.small_runs import same, save_small_model, small_recipe, state_of

Losses = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the batches that runs of a test have computed."""
    numbers: list[int] = []
    losses = TransformerModule.losses

    def noted(self: TransformerModule, batch: Batch, replica: int = 0, replicas: int = 1) -> Losses:
        numbers.append(batch.number)
        return losses(self, batch, replica, replicas)

    monkeypatch.setattr(TransformerModule, "losses", noted)
    return numbers


def spoil(monkeypatch: pytest.MonkeyPatch, numbers: set[int], factor: float) -> None:
    """Multiply the loss of some batches."""
    losses = TransformerModule.losses

    def spoiled(self: TransformerModule, batch: Batch, replica: int = 0, replicas: int = 1) -> Losses:
        found, positions = losses(self, batch, replica, replicas)
        return (found * factor if batch.number in numbers else found), positions

    monkeypatch.setattr(TransformerModule, "losses", spoiled)


def checkpoint(output: Path, step: int) -> dict[str, Any]:
    return read_checkpoint(step_file(output / "checkpoints", step))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    spoil(monkeypatch, {5}, factor)  # the second part of the third step
    recipe = small_recipe(model, tmp_path / "run", accumulate=2, sentinel={"action": "stop"})
    with pytest.raises(RunError, match=r"the loss of step 3 is (nan|inf); the checkpoints before it are whole: lower"):
        train(recipe)
    paths = step_files(tmp_path / "run" / "checkpoints")
    assert [path.name for path in paths] == ["step000001.ckpt", "step000002.ckpt"]
    assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(paths[-1])["state_dict"].values())


def test_a_gradient_that_is_not_finite_stops_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TransformerModule) -> None:
        if self.global_step == 1:
            next(self.transformer.parameters()).grad.mul_(float("nan"))  # type: ignore[union-attr]

    monkeypatch.setattr(TransformerModule, "on_after_backward", broken)
    with pytest.raises(RunError, match="the gradient of step 2 is not finite"):
        train(small_recipe(model, tmp_path, sentinel={"action": "stop"}))


def test_a_run_is_set_back_and_sees_other_batches(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, {3}, float("nan"))
        train(small_recipe(model, tmp_path, steps=5))
    assert seen == [0, 1, 2, 3, 4, 5]
    assert "the loss of step 4 is nan: the run is set back" in caplog.text
    final = checkpoint(tmp_path, 5)
    assert {key: final["RunData"][key] for key in ("skipped", "rollbacks")} == {"skipped": 1, "rollbacks": 1}
    assert len(final["callbacks"]["Sentinel"]["losses"]) == 5
    # What was passed over stays so when the run goes on.
    seen.clear()
    train(small_recipe(model, tmp_path, steps=6))
    assert seen == [6]


def test_a_run_without_a_checkpoint_begins_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    spoil(monkeypatch, {1}, float("nan"))
    train(small_recipe(model, tmp_path, steps=2, checkpoints={"minutes": 60}))
    assert seen == [0, 1, 2, 3]


def test_a_run_is_not_set_back_forever(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    spoil(monkeypatch, set(range(2, 100)), float("nan"))
    recipe = small_recipe(model, tmp_path, sentinel={"most_rollbacks": 2}, checkpoints={"minutes": 1e-9, "keep": 3})
    with pytest.raises(RunError, match="the loss of step 2 is nan, and the run was set back 2 times already: lower"):
        train(recipe)
    # From step 2, from step 2 again, and as that was no better, from step 1.
    assert seen == [0, 1, 2, 3, 4]


def test_a_loss_that_explodes_is_noticed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "RECENT", 4)
    spoil(monkeypatch, set(range(10, 100)), 1e4)
    # A rate of next to nothing: what grows is the loss, not the weights.
    values = {"optimizer": {"learning_rate": 1e-9}, "checkpoints": {"minutes": 60}, "steps": 20}
    recipe = small_recipe(model, tmp_path, sentinel={"action": "stop"}, **values)
    with pytest.raises(RunError, match=r"the mean of the 4 losses up to step 11, .* is more than 10 times the median"):
        train(recipe)


def test_the_history_is_part_of_the_state(model: Path, tmp_path: Path) -> None:
    train(small_recipe(model, tmp_path / "unbroken", steps=3))
    train(small_recipe(model, tmp_path / "resumed", steps=1))
    train(small_recipe(model, tmp_path / "resumed", steps=3))
    states = [state_of(checkpoint(tmp_path / name, 3)) for name in ("unbroken", "resumed")]
    assert sum("Sentinel.losses" in key for key in states[0]) == 3
    assert same(*states)
    states[1][".callbacks.Sentinel.losses.0"] += 1e-9  # the comparison sees it
    assert not same(*states)


def videos(value: int, moving: int = 0) -> list[NDArray[np.uint8]]:
    frames = np.full((5, 8, 8, 3), value, dtype=np.uint8)
    frames[1, 2, 3] += moving
    return [frames, frames.copy()]


def test_black_and_still_samples_are_told_from_sound_ones() -> None:
    assert find_sample_fault(videos(3, moving=3)) == "all sample videos are black"
    assert find_sample_fault(videos(100)) == "nothing moves in any sample video"
    assert find_sample_fault(videos(100, moving=20)) is None
    assert find_sample_fault([*videos(0), *videos(100, moving=20)]) is None
    assert find_sample_fault([video[:1] for video in videos(100)]) is None


def test_samples_are_a_fault_only_after_better_ones(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown = [videos(0), videos(100, moving=50), videos(100), videos(100, moving=50)]
    start = Sentinel.on_train_batch_start

    def sampled(self: Sentinel, trainer: Any, module: Any, batch: Batch, index: int) -> None:
        if shown:
            self.check_samples(shown.pop(0))
        start(self, trainer, module, batch, index)

    monkeypatch.setattr(Sentinel, "on_train_batch_start", sampled)
    with pytest.raises(RunError, match="before step 3 nothing moves in any sample video; the checkpoints"):
        train(small_recipe(model, tmp_path, sentinel={"action": "stop"}))
    assert "all sample videos are black" in caplog.text
