"""What holds for every command: quick help without torch, exit codes, one voice on each stream."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogworks import __version__

Run = Callable[..., Any]


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cogworks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_version(run: Run) -> None:
    assert (run("--version").out, run("--version").code) == (f"{__version__}\n", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("genrate", "x"), 'Did you mean "generate"?'),
        (("generate",), "say what the video should show"),
        (("models", "list", "--jsn"), "Did you mean --json?"),
        (("models", "list", "extra"), "extra"),
        (("convert", "a", "b"), "--to"),
        (("convert", "a", "b", "--to", "gguf"), '"sat"'),
        (("convert", "./missing", "b", "--to", "sat"), "./missing"),
        (("eval", "./missing"), "./missing"),
        (("train", "missing.yaml"), "missing.yaml"),
    ],
)
def test_what_the_person_must_change_is_one_line_and_exit_code_2(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    message = ran.err.splitlines()[-1]
    assert message.startswith("error: ")
    assert words in message
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(("options", "shown"), [([], False), (["--debug"], True)])
def test_a_bug_says_so_and_debug_shows_where(options: list[str], shown: bool) -> None:
    code = (
        "import sys; import cogworks.config.recipe as recipe; from cogworks.cli.main import main;"
        "recipe.load_recipe = lambda *args: 1 / 0; sys.exit(main(['train', 'x', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "a bug of Cogworks (ZeroDivisionError" in ran.stderr
    assert ("Traceback" in ran.stderr) == shown


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "cogworks", "models", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), error) == (0, "")


def test_the_installed_command_is_the_same_program() -> None:
    command = Path(sys.executable).with_name("cogworks")
    ran = subprocess.run([command, "models", "list", "--json"], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == json.loads(start("models", "list", "--json").stdout)
