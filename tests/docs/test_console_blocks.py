"""What the pages show is what happens: their blocks run, and print what the pages say."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import blocks  # noqa: E402

PAGES = [page for page in blocks.pages() if any(block.runs for block in blocks.blocks_of(page.read_text("utf-8")))]
NOT_RUN = [
    (page.relative_to(ROOT).as_posix(), block)
    for page in blocks.pages()
    for block in blocks.blocks_of(page.read_text(encoding="utf-8"))
    if block.language in ("sh", "python") and not block.runs
]


@pytest.fixture(scope="module")
def runner() -> Iterator[blocks.Runner]:
    with blocks.Runner() as runner:
        yield runner


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="pages run in forks of one process")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_shows_what_happens(page: Path, runner: blocks.Runner) -> None:
    name = page.relative_to(ROOT)
    for command in runner.run(page):
        where = f"{name}:{command.block.line}"
        assert "Traceback" not in command.printed, f"{where}: {command.text}\n{command.printed}"
        assert "a bug of Cogworks (" not in command.printed, f"{where}: {command.text}\n{command.printed}"
        if command.expected is None:
            assert command.status == 0, f"{where} fails: {command.text}\n{command.printed}"
        else:
            told = f"{where}: {command.text}\nsays:\n{command.expected}\nprinted:\n{command.printed}"
            assert blocks.agree(command.expected, command.printed, command.block.kind), (
                f"{told}\n(python docs/refresh.py {name})"
            )


@pytest.mark.parametrize("page", blocks.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks.blocks_of(text)
    assert text.count("```") == 2 * len(found), "a fence is not closed, or not at the beginning of a line"
    for block in found:
        assert block.language in blocks.LANGUAGES + blocks.OTHER_LANGUAGES, f"line {block.line}: {block.language}"
        assert block.kind in blocks.KINDS, f"line {block.line}: {block.kind} is no kind"
        if block.language == "console":
            assert block.code.startswith("$ "), f"line {block.line}: a console block begins with a command"


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=[f"{page}:{block.line}" for page, block in NOT_RUN])
def test_blocks_that_cannot_run_here_are_well_formed(page: str, block: blocks.Block) -> None:
    if block.language == "python":
        compile(block.code, page, "exec")
        return
    for line in block.code.splitlines():
        check_command(line)


def check_command(line: str) -> None:
    """Fail unless a line is a command that a reader can give."""
    import shlex

    from cogworks.cli.main import app

    program, *words = shlex.split(line, comments=True)
    if program == "cogworks":
        app.parse_args(words, exit_on_error=False, print_error=False)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert words[-1] in {f"cogworks[{extra}]" for extra in project["optional-dependencies"]}
    elif program == "python":
        assert (ROOT / words[0]).is_file(), line
    elif program == ".venv/bin/pytest":
        assert all((ROOT / word).exists() for word in words if not word.startswith("-"))
    elif program == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8") for target in words), line
    elif program.startswith("benchmarks/"):
        assert os.access(ROOT / program, os.X_OK), line
    else:
        assert [program, *words] == ["hf", "auth", "login"], line


@pytest.mark.parametrize(
    "line",
    [
        "cogworks generate x --sise 8x8",
        "pip install 'cogworks[gpu]'",
        "rm -r /",
        "make money",
        "benchmarks/run.py",
        "benchmarks/no.sh",
    ],
)
def test_the_negative_control_of_the_well_formed(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  cyclopts' errors and failed assertions
        check_command(line)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("17 frames of 64x64 in 0.8 s, seed 7", "17 frames of 64x64 in 12.3 s, seed 7", True),
        ("17 frames of 64x64 in 0.8 s, seed 7", "17 frames of 64x64 in 0.8 s, seed 8", False),
        ("loading\nsampling, 4 steps", "loading\nsampling, 5 steps", False),
        ("loading\nsampling", "loading", False),
        ("first\n...\nlast", "first\nsecond\nthird\nlast", True),
        ("first\n...\nlast", "first\nsecond\nthird", False),
        (f"pixels: {'a' * 64}", f"pixels: {'b' * 64}", True),
        ("torch: 2.13.0", "torch: 2.14.1+cpu", True),
        ("torch: 2.13.0", "python: 2.13.0", False),
        ("ok  video  fine", "ok video fine", True),
    ],
)
def test_what_counts_as_the_same_output(expected: str, printed: str, same: bool) -> None:
    assert blocks.agree(expected, printed) is same


def test_commands_of_a_block() -> None:
    """A console block gives commands and outputs, a shell block commands that must succeed."""
    text = (
        "```console\n$ echo one\none\n\n$ echo \\\ntwo\ntwo\n$ true\n```\n\n```sh\n# talk\necho a \\\n  b\n\nls\n```\n"
    )
    console, shell = blocks.blocks_of(text)
    assert [(c.text, c.expected) for c in blocks.commands_of(console)] == [
        ("echo one", "one"),
        ("echo \\\ntwo", "two"),
        ("true", ""),
    ]
    assert [" ".join(c.text.split()) for c in blocks.commands_of(shell)] == ["echo a b", "ls"]
