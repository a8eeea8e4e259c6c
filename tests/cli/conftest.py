"""A model for the command line to run: the networks of `tiny`, smaller, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cogworks.cli.main import main
from cogworks.config.variants import TINY
from helpers.random_models import save_random

VARIANT = replace(
    TINY,
    name="random",
    transformer=replace(TINY.transformer, num_layers=1, num_heads=2, text_width=32, text_tokens=64, time_width=32),
    vae=replace(TINY.vae, widths=(4, 4, 4, 4)),
    text_encoder=replace(TINY.text_encoder, width=32, head_width=16, num_heads=2, num_layers=1, mlp_width=32),
    defaults=replace(TINY.defaults, height=32, width=32, num_frames=9, steps=2),
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that generates noise, fast."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "random"
    save_random(folder, VARIANT)
    return str(folder)


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run_command
