"""Models for the doctor: a small one with random weights that can be damaged, in both layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cogworks.weights.convert import convert_folder
from helpers.small_folder import save_small


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small model, never changed."""
    root = tmp_path_factory.mktemp("doctor")
    save_small(root / "diffusers")
    save_small(root / "shards", shard_bytes=100_000)
    convert_folder(root / "diffusers", root / "sat", "sat")
    return {name: root / name for name in ("diffusers", "shards", "sat")}


@pytest.fixture
def copy(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the small model that may be damaged."""
    return lambda layout: shutil.copytree(saved[layout], tmp_path / layout)
