"""The wheel: what is in it, and that it makes a video where nothing of the source tree can be reached.

An environment with all dependencies would be a download of some 200 MB for each test run. Instead a fresh environment
gets the wheel, and finds the dependencies in the one that the tests run in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from cogworks import __version__

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 70_000_000


def call(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without what this process's environment says about Python or Cogworks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COGWORKS", "PIP"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    words = [str(word) for word in command]
    ran = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr}"
    return ran


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    before = tree()
    call(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    assert tree() == before, "building left something in the source tree"
    (built,) = folder.iterdir()
    assert built.name == f"cogworks-{__version__}-py3-none-any.whl"
    return built


def tree() -> set[str]:
    return {path.name for path in ROOT.iterdir()}


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {entry.filename for entry in archive.infolist()}
        private = [entry.filename for entry in archive.infolist() if not (entry.external_attr >> 16) & 0o004]
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "cogworks").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {
        "cogworks/assets/tiny/model_index.json",
        "cogworks/assets/eval_shapes_200.txt",
        "cogworks/py.typed",
    } <= names
    assert {"cogworks/assets/tiny/transformer/diffusion_pytorch_model.safetensors"} <= names
    assert f"cogworks-{__version__}.dist-info/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"cogworks", f"cogworks-{__version__}.dist-info"}
    assert not [name for name in names if name.split("/")[-1].startswith(("test_", "conftest"))]
    assert private == [], "whoever installs it for all users would be the only one who can read these"


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and sees the dependencies, and not the tree."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    call(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check"),
        *("--no-deps", "--no-index", "--no-compile", wheel),
        cwd=home,
    )
    # A line of a .pth file is added to the path, but the .pth files of that folder, as the one of an editable
    # installation, are not followed.
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    place = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).stdout.strip()
    Path(place, "dependencies.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    return programs


def test_the_installed_wheel_makes_a_video(scripts: Path, tmp_path: Path) -> None:
    where = call(scripts / "python", "-c", "import cogworks; print(cogworks.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(scripts.parent), "the copy under test is not that of the wheel"

    version = call(scripts / "python", "-m", "cogworks", "--version", cwd=tmp_path).stdout
    assert version.strip() == __version__

    arguments = ["generate", "a red circle moves right", "--steps", "2", "--frames", "9", "--output", "out.mp4"]
    ran = call(scripts / "cogworks", *arguments, cwd=tmp_path, COGWORKS_CACHE=str(tmp_path / "cache"))
    assert ran.stdout.strip() == "out.mp4"
    content = (tmp_path / "out.mp4").read_bytes()
    assert content[4:8] == b"ftyp"
    assert len(content) > 1000
