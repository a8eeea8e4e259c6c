"""Help: every verb and option has it, its examples parse, and it answers at once; and the completion of shells."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from cyclopts.completion import detect

from cogworks.cli.main import app

Run = Callable[..., Any]
# Processor time, best of three, because a wall clock measures what else the machine does. On one core of 2.5 GHz with
# little else to do, `--help` takes 0.25 s and `generate --help`, the page with most options, 0.4 s.
HELP_SECONDS = 0.5
LONGEST_PAGE_SECONDS = 0.8
HEAVY = ("torch", "numpy", "pydantic", "yaml", "av", "PIL", "huggingface_hub", "sentencepiece", "rich.markdown")
SHELLS = ("bash", "zsh", "fish", "powershell")


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def verbs(parent: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, without flags as --help."""
    for name in parent:
        if not name.startswith("-"):
            command, words = parent[name], (*path, name)
            yield words
            yield from verbs(command, words)


def find(words: tuple[str, ...]) -> App:
    command = app
    for word in words:
        command = command[word]
    return command


ALL = sorted(verbs())
TOP = sorted({words[0] for words in ALL})
LEAVES = [words for words in ALL if find(words).default_command is not None]


def panels(text: str) -> dict[str, list[str]]:
    """What the boxes of a help page list first in each row, by the title of the box."""
    found: dict[str, list[str]] = {}
    for box in re.split(r"^╭─ ", text, flags=re.MULTILINE)[1:]:
        title = box.partition(" ─")[0]
        found[title] = re.findall(r"^│ (?:\* |  )?(\S+)", box, flags=re.MULTILINE)
    return found


def examples(text: str) -> list[list[str]]:
    """The commands under "Example:" or "Examples:", as words after `cogworks`."""
    _, heading, below = text.partition("\n\nExample")
    lines = below.replace("\\\n", " ").splitlines()[1:] if heading else []
    commands = [shlex.split(line) for line in lines if line.strip()]
    assert all(command[0] == "cogworks" for command in commands), f"an example does not fit into 80 columns:\n{text}"
    return [command[1:] for command in commands]


def used_seconds(*command: str) -> float:
    """Processor time that Python takes for a command; the best of three runs."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=60)
        after = os.times()
        used = after.children_user - before.children_user + after.children_system - before.children_system
        times.append(used)
    return min(times)


def test_the_top_page_lists_every_verb_in_a_group(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    groups = panels(ran.out)
    assert "Commands" not in groups, "a verb has no group"
    listed = [name for rows in groups.values() for name in rows if name in TOP]
    assert sorted(listed) == TOP
    assert listed[0] == "generate"
    assert len([group for group, rows in groups.items() if set(rows) & set(TOP)]) >= 2
    assert len(examples(ran.out)) >= 3


def test_the_negative_control_of_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    plain = App(name="plain")
    plain.command(lambda: None, name="verb")
    plain.help_print([])
    assert "verb" in panels(capsys.readouterr().out)["Commands"]


def test_without_words_it_shows_the_same(run: Run) -> None:
    assert run().out == run("--help").out


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_verb_has_help(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: cogworks {' '.join(words)}")
    described = ran.out.split("\n\n")[1]
    assert described.rstrip().endswith(".") or len(described) > 40, described
    assert "[bold]" not in ran.out


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_option_has_help(words: tuple[str, ...]) -> None:
    for argument in find(words).assemble_argument_collection(parse_docstring=True):
        if argument.show:
            assert argument.parameter.help, (words, argument.name)


@pytest.mark.parametrize("words", [(), *((verb,) for verb in TOP)], ids=lambda words: " ".join(words) or "top")
def test_examples_are_of_the_verb_and_parse(run: Run, words: tuple[str, ...]) -> None:
    """Examples of a page above are not shown again below, and each one is a command that would run."""
    shown = examples(run(*words, "--help").out)
    assert shown, words
    for command in shown:
        assert tuple(command[: len(words)]) == words
        app.parse_args(command, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("words", [words for words in ALL if len(words) > 1], ids=" ".join)
def test_a_verb_of_two_words_shows_no_examples_of_the_whole(run: Run, words: tuple[str, ...]) -> None:
    for command in examples(run(*words, "--help").out):
        assert command[0] == words[0]


@pytest.mark.parametrize("words", [[], ["--help"], ["generate", "--help"], ["--version"], ["no-such-verb"]], ids=str)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from cogworks.cli.main import main; main(sys.argv[1:]);"
        f"print('loaded', sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr.splitlines()[-1] == "loaded []"


def test_help_answers_at_once() -> None:
    assert used_seconds("-m", "cogworks", "--help") < HELP_SECONDS


def test_the_longest_page_answers_soon() -> None:
    assert used_seconds("-m", "cogworks", "generate", "--help") < LONGEST_PAGE_SECONDS


def test_the_negative_control_of_the_speed() -> None:
    busy = f"import time\nwhile time.process_time() < {HELP_SECONDS + 0.1}: pass"
    assert used_seconds("-c", busy) > HELP_SECONDS


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_verb(shell: Any) -> None:
    script = app.generate_completion(shell=shell)
    for words in ALL:
        assert words[-1] in script
    assert "--negative-prompt" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_completes_in_bash(tmp_path: Path) -> None:
    (tmp_path / "completion.bash").write_text(app.generate_completion(shell="bash"), encoding="utf-8")
    (tmp_path / "ask.bash").write_text(
        """source "$1"
complete_words() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _cogworks cogworks "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
}
complete_words cogworks g
complete_words cogworks generate --neg
complete_words cogworks generate --sampler ""
"""
    )
    command = ["bash", "--norc", str(tmp_path / "ask.bash"), str(tmp_path / "completion.bash")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["generate", "--negative-prompt", "ddim dpm dpm-ode ddpm"]


@pytest.mark.skipif(os.name == "nt", reason="places differ")
def test_completion_is_installed_in_the_home_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        ran = run("--install-completion", "--shell", "bash")
        assert (ran.code, ran.out) == (0, "")
        assert str(tmp_path) in ran.err
    script = tmp_path / ".local" / "share" / "bash-completion" / "completions" / "cogworks"
    assert script.read_text(encoding="utf-8") == app.generate_completion(shell="bash")
    assert (tmp_path / ".bashrc").read_text().count(str(script)) == 2, "one line, which names it twice"


def test_a_shell_that_cannot_be_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise detect.ShellDetectionError("no shell")

    monkeypatch.setattr(detect, "detect_shell", unknown)
    ran = run("--install-completion")
    assert ran.code == 2
    assert "--shell bash" in ran.err
