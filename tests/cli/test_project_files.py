"""The files that a fresh machine depends on: constraints, Makefile, continuous integration, licence."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cogworks import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLS = "--constraint constraints.txt --editable"
# What a make around these tests hands down must not steer the make inside them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def pins() -> dict[str, str]:
    """Package name to pinned version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = {}
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "+" not in specifier.version, f"{requirement}: a local build is not on every index"
        found[canonicalize_name(requirement.name)] = specifier.version
    assert len(found) == len(requirements)
    return found


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        name = canonicalize_name(requirement.name)
        if name != "cogworks":
            assert requirement.specifier.contains(pins()[name]), requirement


def test_torch_is_pinned() -> None:
    assert pins()["torch"] == "2.13.0"


def test_nothing_that_moves_torch_is_pinned() -> None:
    assert not {"torchvision", "torchaudio", "lpips", "timm"} & set(pins())


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "constraints.txt", "pyproject.toml", ".gitignore"])
def test_no_index_and_no_path_of_a_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|find-links|/home/|/root/|/opt/|/tmp/", text)


def test_the_continuous_integration_is_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set", "cd"))]
    assert commands == ["make test"]


def dry_run(*arguments: str) -> str:
    command = ["make", "-n", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


def test_make_test_runs_every_check() -> None:
    plan = dry_run("VENV=missing", "test")
    for command in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest -n auto"):
        assert f"missing/bin/{command}" in plan
    assert "--constraint constraints.txt --editable '.[test]'" in plan


def test_make_demo_installs_the_core_alone() -> None:
    plan = dry_run("VENV=missing", "demo")
    assert "--editable .\n" in plan
    assert "[test]" not in plan
    assert "missing/bin/python examples/demo.py" in plan


def test_a_second_make_installs_nothing(tmp_path: Path) -> None:
    for name in ("made", "core", "test"):
        (tmp_path / f"{name}.stamp").touch()
    for target in ("demo", "test"):
        assert INSTALLS not in dry_run(f"VENV={tmp_path}", target)
    os.utime(tmp_path / "core.stamp", (0, 0))  # older than the constraints
    assert INSTALLS in dry_run(f"VENV={tmp_path}", "demo")


def test_an_old_python_is_told_apart() -> None:
    command = ["make", "-C", str(ROOT), "VENV=missing", "PYTHON=false", "demo"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ran.returncode != 0
    assert "Python 3.11 to 3.14" in ran.stderr
    assert not (ROOT / "missing").exists()


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["version"] == __version__


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
