"""What holds for every command: quick help without torch, exit codes, one voice on each stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogworks import __version__
from cogworks.cli.main import app

Run = Callable[..., Any]
VERBS = ["generate", "models", "convert", "eval", "train"]
HELP_SECONDS = 0.5


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cogworks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("words", [[], ["--help"], *([verb, "--help"] for verb in VERBS), ["models", "show", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = {"torch", "numpy", "av", "PIL", "huggingface_hub", "lightning", "diffusers", "transformers"}
    code = (
        "import sys; from cogworks.cli.main import main; code = main(sys.argv[1:]);"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "[]\n")
    assert "Usage: cogworks" in ran.stdout


def test_help_answers_at_once() -> None:
    """Processor time, so that a busy machine does not fail the test: 0.2 s on one core of 2.5 GHz."""
    before = os.times()
    assert start("--help").returncode == 0
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    assert used < HELP_SECONDS


def test_the_negative_control_of_the_help_tests() -> None:
    """A command that does load torch takes longer than the help may."""
    before = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=60)
    assert time.monotonic() - before > HELP_SECONDS


def test_every_verb_has_help_for_itself_and_every_option() -> None:
    for verb in VERBS:
        commands = [app[verb]] if verb != "models" else [app["models"]["list"], app["models"]["show"]]
        for command in commands:
            assert command.help
            for argument in command.assemble_argument_collection(parse_docstring=True):
                assert argument.parameter.help, f"{verb} {argument.name} has no help"


def test_the_version(run: Run) -> None:
    assert (run("--version").out, run("--version").code) == (f"{__version__}\n", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("genrate", "x"), 'Did you mean "generate"?'),
        (("generate",), "PROMPT"),
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


def test_a_bug_shows_its_traceback_and_exit_code_1(tmp_path: Path) -> None:
    code = (
        "import sys; import cogworks.config.recipe as recipe; from cogworks.cli.main import main;"
        "recipe.load_recipe = lambda *args: 1 / 0; sys.exit(main(['train', 'x']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr


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
