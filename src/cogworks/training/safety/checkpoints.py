"""Checkpoints that are written whole or not at all, tested before a run goes on from them, and bound to their recipe.

`step000120.ckpt` is the state of a run after 120 steps of the optimizer; `last.ckpt` and `best.ckpt` are further names
of such files. All are zip archives of `torch.save`, with a checksum for each entry.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from cogworks.config.training import Run
from cogworks.errors import RecipeError, RunError
from cogworks.training.safety.changes import check_recipe
from cogworks.weights.storage import replacing

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"
TEMPORARY = ".*.ckpt.*.tmp"  # what `replacing` calls a checkpoint that is being written
_STEP_FILE = re.compile(r"step(\d{6,})\.ckpt")

PARTS = frozenset({"state_dict", "optimizer_states", "lr_schedulers", "loops", "recipe"})
"""What a checkpoint must hold for a run to go on from it."""

_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


class SafeCheckpoints(CheckpointIO):
    """What Lightning writes and reads checkpoints with: in one go to the disk, under another name until it is whole.

    Args:
        recipe: of the run; it travels in the checkpoint, and a checkpoint of another one is refused.
    """

    def __init__(self, recipe: Run) -> None:
        self.recipe = recipe

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        write_checkpoint({**checkpoint, "recipe": self.recipe.model_dump(mode="json")}, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint = read_checkpoint(Path(path))
        check_recipe(checkpoint, self.recipe, Path(path))
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that is on the disk, whole, when this returns. Tensors are written one after the other.

    Raises:
        RunError: there is no room, or the disk does not take it; what was there before is as it was.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch says where its archive broke off; what the system said is the context of that.
        fault = error if isinstance(error, OSError) else error.__context__
        if not isinstance(fault, OSError):
            raise
        earlier = [each for each in step_files(path.parent) if each != path]
        whole = f"the last good checkpoint is {earlier[-1]}" if earlier else "there was none before it"
        raise RunError(
            f"{path} could not be written ({fault.strerror}): it takes {_megabytes(_tensor_bytes(checkpoint))} and "
            f"{_megabytes(_room(path.parent))} are free; {whole}: make room and start the run again"
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, memory-mapped on the CPU. Nothing in it is executed.

    `state_dict` holds the averaged weights where there is an average, and `current_model_state` those in training.

    Raises:
        RecipeError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise RecipeError(f"there is no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    archive.read(name)  # its checksum holds, so that torch reads what torch wrote
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGE as error:
        raise RecipeError(f"{path} is damaged or no checkpoint ({_first_line(error)}); choose another one") from None
    missing = PARTS - checkpoint.keys() if isinstance(checkpoint, dict) else PARTS
    if missing:
        raise RecipeError(f"{path} is no checkpoint of a run: it lacks {', '.join(sorted(missing))}")
    return dict(checkpoint)


def check_whole(path: Path) -> None:
    """Compare all of a checkpoint with its checksums.

    Raises:
        RecipeError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise RecipeError(f"there is no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except _DAMAGE as error:
        raise RecipeError(f"{path} is damaged ({_first_line(error)}); choose another one") from None
    if damaged is not None:
        raise RecipeError(f"{path} is damaged: {damaged} in it is not what was written; choose another one")
    read_checkpoint(path)


def last_good_checkpoint(output: Path, trusted_step: int | None = None) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged ones are passed over.

    Args:
        output: folder of the run.
        trusted_step: take one up to this step, where there is one, else the first after it.

    Raises:
        RunError: there are some, and all are damaged.
    """
    paths = _candidates(output / FOLDER)
    if trusted_step is not None:
        paths = step_files(output / FOLDER)
        trusted = [path for path in paths if step_of(path) <= trusted_step]
        paths = [*reversed(trusted), *paths[len(trusted) :]]
    for path in paths:
        try:
            check_whole(path)
        except RecipeError as error:
            log.warning("passed over a checkpoint: %s", error)
        else:
            return path
    if paths:
        raise RunError(f"no checkpoint in {output / FOLDER} is whole: move that folder away to begin the run again")
    return None


def set_back(output: Path, trusted_step: int) -> Path | None:
    """The checkpoint that a run is set back to; those after it are removed."""
    checkpoint = last_good_checkpoint(output, trusted_step)
    if checkpoint is not None:
        for path in step_files(output / FOLDER):
            if step_of(path) > step_of(checkpoint):
                path.unlink(missing_ok=True)
    return checkpoint


def step_files(folder: Path) -> list[Path]:
    """The checkpoints that are named by their steps, fewest first."""
    found = [path for path in folder.glob("step*.ckpt") if _STEP_FILE.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_file(folder: Path, step: int) -> Path:
    """What the checkpoint after so many steps is called."""
    return folder / f"step{step:06d}.ckpt"


def step_of(path: Path) -> int:
    """The number of steps in the name of a checkpoint."""
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None  # a step file
    return int(match[1])


def _candidates(folder: Path) -> list[Path]:
    """What a run could go on from, best first; other names of one file are left out."""
    steps = step_files(folder)
    known = {path.stat().st_ino for path in steps}
    others = [folder / name for name in (LAST, BEST)]
    return [*reversed(steps), *(path for path in others if path.is_file() and path.stat().st_ino not in known)]


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last, where the system can (Windows cannot, and need not)."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _tensor_bytes(checkpoint: dict[str, Any]) -> int:
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(checkpoint)
    }
    return sum(storages.values())


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _room(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
