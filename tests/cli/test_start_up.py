"""What a command loads. Not timed: each of these takes longer to load than most commands to do their work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = ("torch._dynamo", "torch._inductor", "sympy")
# Seconds each, and of use to other commands alone.
LIBRARIES = (
    "diffusers",
    "huggingface_hub",
    "lightning",
    "matplotlib",
    "pandas",
    "peft",
    "scipy",
    "tensorboard",
    "torchvision",
    "transformers",
)
# A tenth of a second together.
OPTIONAL = (
    "cogworks.enhance.prompt",
    "cogworks.pipelines.adapters",
    "rich.progress",
    "yaml",
)


def loaded(program: str, *words: str) -> set[str]:
    """The modules that a fresh process has at the end of a program."""
    code = f"import json, sys\n{program}\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("program", ["import cogworks", "import cogworks.cli.main"])
def test_nothing_heavy_is_loaded_before_it_is_used(program: str) -> None:
    modules = loaded(program)
    assert "cogworks" in modules
    assert not modules & {"torch", "numpy", "av", "PIL", "pydantic", "sentencepiece", *LIBRARIES}


def test_generating_loads_what_it_uses(tmp_path: Path) -> None:
    program = "from cogworks.cli.main import main; assert main(sys.argv[1:]) == 0"
    words = ("generate", "a", "--size", "32x32", "--frames", "1", "--steps", "1", "-o", str(tmp_path / "a.mp4"))
    modules = loaded(program, *words)
    assert modules >= {"torch", "av", "pydantic", "sentencepiece", "cogworks.pipelines.generate"}
    assert not modules & {*COMPILER, *LIBRARIES, *OPTIONAL}


def test_the_negative_control() -> None:
    assert loaded("import torch._dynamo") >= {*COMPILER[::2]}
