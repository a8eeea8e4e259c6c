"""ARCHITECTURE.md shows the house as it stands: every file, on the floor that the import contract puts it on."""

from __future__ import annotations

import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from cogworks.config.variants import TINY
from cogworks.pipelines.geometry import geometry

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "cogworks"


def read_tree(page: str) -> tuple[set[str], dict[str, int]]:
    """The files of the tree in `page`, and the floor of every package and top-level module that has one."""
    tree = re.search(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert tree is not None
    files, floors, folders = set(), {}, []
    for line in tree[1].splitlines():
        found = re.fullmatch(r"( *)(\S+)(?: +(\d))?(?: +(\S.*))?", line)
        assert found is not None, line
        indent, name, floor, meaning = found.groups()
        assert meaning or name == "maps/", f"{name} has no description"
        folders = folders[: len(indent) // 2]
        path = "".join([*folders, name])
        if floor is not None:
            floors[path.removesuffix("/").removesuffix(".py")] = int(floor)
        if name.endswith("/"):
            folders.append(name)
            assert (HOUSE / path).is_dir(), path
        else:
            files.add(path)
    return files, floors


@pytest.fixture(scope="module")
def tree() -> tuple[set[str], dict[str, int]]:
    return read_tree((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def test_the_tree_names_every_file_and_no_other(tree: tuple[set[str], dict[str, int]]) -> None:
    modules = {path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py")}
    packages_alone = {name for name in modules if name.endswith("/__init__.py")}  # their folder has a line
    assert tree[0] == modules - packages_alone


def test_the_floors_are_those_of_the_import_contract(tree: tuple[set[str], dict[str, int]]) -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = [layer.split(" | ") for layer in contract]
    floors = tree[1]
    assert sorted(name for layer in layers for name in layer) == sorted(floors)
    for above, below in pairwise(layers):
        assert len({floors[name] for name in above}) == 1
        assert floors[above[0]] >= floors[below[0]]


def test_every_package_has_a_line(tree: tuple[set[str], dict[str, int]]) -> None:
    packages = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    assert packages == {name for name in tree[1] if (HOUSE / name).is_dir()}


def test_names_in_the_text_exist() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```")[-1]
    names = re.findall(r"`([\w/]+\.py)`", page)
    assert len(names) > 20
    for name in names:
        assert (HOUSE / name).is_file(), name


def test_the_shapes_of_the_walk_are_those_of_tiny() -> None:
    size, latents, transformer = geometry(TINY, None, None, None, None), TINY.vae.latent_channels, TINY.transformer
    video_tokens = size.latent_frames * size.rows * size.columns // math.prod(transformer.patch_size)
    walk = " ".join((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```")[-1].split())
    for text in (
        f"{size.num_frames} frames of {size.width}x{size.height} are latents of "
        f"(1, {latents}, {size.latent_frames}, {size.rows}, {size.columns})",
        f"`steps({TINY.defaults.steps})` picks {TINY.defaults.steps} timesteps",
        f"(`{TINY.defaults.sampler}`) calls",
        f"Each is (1, {transformer.text_tokens}, {transformer.text_width})",
        f"{transformer.text_tokens} + {video_tokens} tokens of width {transformer.width}",
        f"a `Video` of ({size.num_frames}, {size.height}, {size.width}, 3)",
    ):
        assert text in walk, text


def test_the_negative_control_of_the_tree() -> None:
    files, floors = read_tree("```\nvideo/   1  files\n  gone.py   was here once\n```\n")
    assert files == {"video/gone.py"}
    assert not (HOUSE / "video/gone.py").exists()
    assert floors == {"video": 1}
