"""Checkpoints on disk: whole or not there, tested before use, and bound to their recipe."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.config.recipe import Recipe, parse_recipe
from cogworks.errors import RecipeError, RunError
from cogworks.training.safety import checkpoints
from cogworks.training.safety.checkpoints import (
    FOLDER,
    SafeCheckpoints,
    check_whole,
    last_good_checkpoint,
    read_checkpoint,
    set_back,
    step_file,
    step_files,
    write_checkpoint,
)

VALUES: dict[str, Any] = {
    "version": 1,
    "kind": "transformer",
    "model": "tiny",
    "output": "run",
    "steps": 10,
    "batch_size": 2,
    "lora": {"rank": 2},
    "optimizer": {"learning_rate": 0.01},
    "data": {"kind": "shapes"},
}


VAE: dict[str, Any] = {**VALUES, "kind": "vae"}
del VAE["lora"]


def recipe(**values: Any) -> Recipe:
    return parse_recipe({**VALUES, **values}, "test")


def content(step: int = 1, weights: int = 100) -> dict[str, Any]:
    return {
        "state_dict": {"weight": torch.arange(float(weights))},
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {},
        "global_step": step,
    }


def save(folder: Path, *steps: int, **values: Any) -> list[Path]:
    paths = [step_file(folder / FOLDER, step) for step in steps]
    for path, step in zip(paths, steps, strict=True):
        SafeCheckpoints(recipe(**values)).save_checkpoint(content(step), path)
    return paths


@contextmanager
def room_for(bytes_: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 3)
    assert list(path.parent.iterdir()) == [path]
    found = SafeCheckpoints(recipe()).load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], torch.arange(100.0))
    assert found["recipe"]["lora"]["rank"] == 2
    assert last_good_checkpoint(tmp_path) == path


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path) -> None:
    (first,) = save(tmp_path, 1)
    second = step_file(first.parent, 2)
    big = {**content(weights=10**6), "recipe": {}}
    with (
        room_for(10**6),
        pytest.raises(RunError, match=r"step000002.ckpt could not be written \(File too large\)") as told,
    ):
        write_checkpoint(big, second)
    assert "it takes 4.0 MB and" in str(told.value)
    assert f"the last good checkpoint is {first}: make room and start the run again" in str(told.value)
    assert list(first.parent.iterdir()) == [first]
    assert last_good_checkpoint(tmp_path) == first
    # A file that is there already stays as it is, too.
    before = first.read_bytes()
    with room_for(10**6), pytest.raises(RunError, match="there was none before it"):
        write_checkpoint(big, first)
    assert first.read_bytes() == before


def test_an_error_that_is_not_the_disks_is_not_explained_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(checkpoint: Any, file: Any) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="bug"):
        write_checkpoint(content(), tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def test_tensors_are_written_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write is larger than one tensor: nothing holds the file as a whole."""
    largest = 0

    class Watched(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal largest
            largest = max(largest, memoryview(data).nbytes)
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode: Watched(self, mode))
    tensors = {str(number): torch.full((50_000,), float(number)) for number in range(10)}
    write_checkpoint({**content(), "state_dict": tensors, "recipe": {}}, tmp_path / "x.ckpt")
    monkeypatch.undo()
    assert largest == 200_000
    assert torch.equal(read_checkpoint(tmp_path / "x.ckpt")["state_dict"]["7"], tensors["7"])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path) -> None:
    """One bit of a weight, which every reader but a checksum overlooks."""
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(100.0).numpy().tobytes())
    data[place + 50] ^= 1
    path.write_bytes(data)


def other(path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("damage", [cut, emptied, flipped, other])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    old, new = save(tmp_path, 2, 4)
    damage(new)
    assert last_good_checkpoint(tmp_path) == old
    assert "passed over a checkpoint" in caplog.text
    assert "step000004.ckpt" in caplog.text
    with pytest.raises(RecipeError, match=r"step000004.ckpt is (damaged|no checkpoint)"):
        check_whole(new)
    damage(old)
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole: move that folder away"):
        last_good_checkpoint(tmp_path)


def test_no_damage_gets_through_as_another_error(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 1)
    whole, draws, found = path.read_bytes(), random.Random(0), 0
    for read in (check_whole, read_checkpoint):
        for _ in range(60):
            data = bytearray(whole)
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
            path.write_bytes(data)
            try:
                read(path)
            except RecipeError:
                found += 1
    assert found > 30  # the rest hit padding, or names and dates that nothing reads


def test_other_names_are_taken_where_step_files_are_gone(tmp_path: Path) -> None:
    assert last_good_checkpoint(tmp_path) is None
    (path,) = save(tmp_path, 7)
    os.link(path, path.with_name("last.ckpt"))
    assert last_good_checkpoint(tmp_path) == path
    path.unlink()
    assert last_good_checkpoint(tmp_path) == path.with_name("last.ckpt")
    path.with_name("last.ckpt").rename(path.with_name("best.ckpt"))
    assert last_good_checkpoint(tmp_path) == path.with_name("best.ckpt")


def test_a_run_is_set_back_to_a_step_that_is_trusted(tmp_path: Path) -> None:
    assert set_back(tmp_path, 5) is None
    paths = save(tmp_path, 10, 20, 30)
    assert last_good_checkpoint(tmp_path, 25) == paths[1]
    assert last_good_checkpoint(tmp_path, 5) == paths[0]  # rather than none
    assert set_back(tmp_path, 25) == paths[1]
    assert step_files(tmp_path / FOLDER) == paths[:2]


def test_many_steps_sort_as_numbers(tmp_path: Path) -> None:
    paths = save(tmp_path, 999_999, 1_000_000)
    assert step_files(tmp_path / FOLDER) == paths


@pytest.mark.parametrize(
    ("values", "key", "was", "now"),
    [
        ({"lora": {"rank": 4}}, "lora.rank", 2, 4),
        ({"lora": {"rank": 2, "targets": ["proj_out"]}}, "lora.targets", "", ""),
        (
            {"lora": None, "variant": "tiny-i2v", "model": None, "vae": "tiny", "text_encoder": "tiny"},
            "lora",
            None,
            None,
        ),
        ({"model": "tiny-i2v"}, "model", "tiny", "tiny-i2v"),
        ({"optimizer": {"learning_rate": 0.02}}, "optimizer.learning_rate", 0.01, 0.02),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(
    tmp_path: Path, values: dict[str, Any], key: str, was: Any, now: Any
) -> None:
    (path,) = save(tmp_path, 1)
    with pytest.raises(
        RecipeError, match=f"step000001.ckpt was made with {key}.*: set it back, or choose another output"
    ) as told:
        SafeCheckpoints(recipe(**values)).load_checkpoint(path)
    if was:
        assert f"{key} {was}, and the recipe says {now}" in str(told.value)


def test_what_may_change_may(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = save(tmp_path, 1)
    longer = recipe(steps=20, output="elsewhere", threads=1, checkpoints={"keep": 3}, sentinel=None)
    SafeCheckpoints(longer).load_checkpoint(path)
    assert not caplog.text
    clipped = {"learning_rate": 0.01, "clip_norm": 0.1}
    SafeCheckpoints(recipe(batch_size=4, optimizer=clipped)).load_checkpoint(path)
    assert "the recipe was changed since step000001.ckpt was made: batch_size, optimizer.clip_norm" in caplog.text


def test_a_checkpoint_from_before_an_option_was_there_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = step_file(tmp_path / FOLDER, 1)
    stored = recipe().model_dump(mode="json")
    del stored["optimizer"]["eps"], stored["loss"]
    write_checkpoint({**content(), "recipe": stored}, path)
    SafeCheckpoints(recipe()).load_checkpoint(path)
    assert not caplog.text
    with pytest.raises(RecipeError, match=r"was made with kind transformer, and the recipe says vae"):
        SafeCheckpoints(parse_recipe({**VAE, "output": "run"}, "test")).load_checkpoint(path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = tmp_path / "trap.ckpt"
    torch.save({**content(), "recipe": Trap()}, path)
    with pytest.raises(RecipeError, match="is damaged or no checkpoint"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RecipeError, match="is damaged or no checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "trapped").exists()
    with pytest.raises(RecipeError, match="there is no checkpoint at"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_write_that_fails_late_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_checkpoint({**content(), "recipe": {}}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())
