"""The fenced blocks of the documentation: finding them, running those of a page, comparing what they print.

A block runs if its first word is `sh`, `python` or `console`. In a `console` block a line that begins with `$ ` is a
command, and what follows is what a person sees: standard output and error together. A second word says why a block
does not run: `setup` installs, `network` downloads, `long` takes minutes, `gpu` needs one, `theirs` is a program for
another library. Or it is `varies`: the output depends on the machine, and only its first and last line are compared.

All blocks of a page run in order in one empty folder, in one process, with the bundled model. `cogworks` is called in
that process; everything else goes to bash.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DOCS = Path(__file__).parent
ROOT = DOCS.parent
KINDS = ("", "varies", "setup", "network", "long", "gpu", "theirs")
LANGUAGES = ("sh", "python", "console")
OTHER_LANGUAGES = ("text", "yaml", "json")  # shown, not run
SHELL_SIGNS = re.compile(r"[|<>;&$`*]")
# `doctor` says so if the hub is switched off, which readers have no reason to do. It uses no network.
PAGES_AS_IF_ONLINE = ("cli/doctor.md",)
TIMEOUT_SECONDS = 300

# What differs between two runs, or two machines, and what stands for it in a comparison. In this order.
VARYING = (
    (r"\b[0-9a-f]{40,64}\b", "HASH"),
    (r"\b\d+\.\d+\.\d+(\.\w+)*(\+[\w.]+)?", "VERSION"),
    (r"(?<![\w.])\d[\d.]*(e-?\d+)? ?(s|ms|seconds|minutes|min|hours|h)\b", "TIME"),
    (r'("?seconds\w*"?): \d[\d.]*', r"\1: TIME"),
    (r"(?m)^( *(hardware|platform): ).*$", r"\1MACHINE"),
    (r'"hardware": "[^"]*"', '"hardware": "MACHINE"'),
    (r"(?m)^on .*, (float32|bfloat16|float16)$", r"on MACHINE, \1"),
    (r"(?m)^measuring how fast .*\n", ""),
    (r"(?m)^the process holds .* before, and up to .* in all$", "the process holds MEMORY"),
    (r" +", " "),
    (r"(?m) +$", ""),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: `text[start:end]` is what is between the fences."""

    line: int
    language: str
    kind: str
    code: str
    start: int
    end: int

    @property
    def runs(self) -> bool:
        return self.language in LANGUAGES and self.kind in ("", "varies")


@dataclass(frozen=True)
class Command:
    """A command of a block, what the page says it prints (None: nothing is said), and what it printed."""

    block: Block
    text: str
    expected: str | None
    printed: str = ""
    status: int = 0


def pages() -> list[Path]:
    """All pages of the documentation."""
    return sorted(DOCS.glob("**/*.md"))


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in re.finditer(r"^```(\w*)[ ]?(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(line, match[1], match[2], match[3], match.start(3), match.end(3)))
    return found


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a block that runs; a line that ends in a backslash goes on in the next."""
    if block.language == "python":
        yield Command(block, block.code, None)
    elif block.language == "sh":
        for line in re.sub(r"\\\n", " ", block.code).splitlines():
            if line.strip() and not line.startswith("#"):
                yield Command(block, line, None)
    else:
        for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
            lines = part.split("\n")
            end = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
            yield Command(block, "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :]).strip("\n"))


class Runner:
    """Runs pages: a process that loads torch once, and a fork of it for every page. A context manager."""

    def __enter__(self) -> Self:
        self._place = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._place.cleanup()

    def run(self, page: Path) -> list[Command]:
        """The commands of a page with what they printed. Paths of this machine come back shortened."""
        home = Path(self._place.name).resolve() / re.sub(r"\W", "-", str(page.relative_to(DOCS)))
        folder = home / "videos"
        folder.mkdir(parents=True)
        (folder / "recipes").symlink_to(ROOT / "recipes")
        (home / "cogworks").symlink_to(ROOT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(page, home, sep="\t", file=self._process.stdin, flush=True)
        printed = json.loads(self._process.stdout.readline())
        runs = (block for block in blocks_of(page.read_text(encoding="utf-8")) if block.runs)
        return [
            Command(command.block, command.text, command.expected, _shortened(text, home), status)
            for command, (text, status) in zip(
                (command for block in runs for command in commands_of(block)), printed, strict=True
            )
        ]


def agree(expected: str, printed: str, kind: str = "") -> bool:
    """Whether a page says what was printed, but for what varies. A line `...` stands for any lines."""
    if kind == "varies":
        first, *_, last = expected.split("\n", 1)[0], expected.rpartition("\n")[2]
        expected = f"{first}\n...\n{last}"
    parts = [_comparable(part) for part in re.split(r"(?m)^\.\.\.$", expected)]
    text = _comparable(printed)
    if len(parts) == 1:
        return parts[0] == text
    if not (text.startswith(parts[0]) and text.endswith(parts[-1])):
        return False
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def _comparable(text: str) -> str:
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return text.strip("\n")


def _environment() -> dict[str, str]:
    ours = {"HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "FORCE_COLOR"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    kept = {name: value for name, value in kept.items() if not name.startswith(("XDG_", "COGWORKS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}


def _shortened(text: str, home: Path) -> str:
    """Paths as a reader may have them: a clone, an environment and a folder of videos at home."""
    for path, short in ((home, "~"), (Path(sys.prefix), "~/cogworks/.venv"), (ROOT, "~/cogworks")):
        text = text.replace(str(path), short)
    text = text.replace(platform.release(), "KERNEL")
    return "\n".join(line.rstrip() for line in text.splitlines())


def _serve() -> None:
    """For every page on standard input, a line of JSON on standard output: what each of its commands printed."""
    import numpy  # noqa: F401  what is loaded here, no page has to load again
    import torch  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a command writes past Python does not get between the answers
    for line in sys.stdin:
        page, home = map(Path, line.rstrip("\n").split("\t"))
        if os.fork() == 0:
            signal.alarm(TIMEOUT_SECONDS)
            print(json.dumps(_run_page(page, home)), file=answers, flush=True)
            os._exit(0)
        _, status = os.wait()
        if status:
            print(json.dumps([f"the page did not end well: {status}"]), file=answers, flush=True)


def _run_page(page: Path, home: Path) -> list[tuple[str, int]]:
    os.chdir(home / "videos")
    os.environ["HOME"] = str(home)
    if page.relative_to(DOCS).as_posix() not in PAGES_AS_IF_ONLINE:
        os.environ["HF_HUB_OFFLINE"] = "1"
    results: list[tuple[str, int]] = []
    status = 0
    for block in blocks_of(page.read_text(encoding="utf-8")):
        for command in commands_of(block) if block.runs else ():
            text, status = _run(command, status)
            results.append((text, status))
    return results


def _run(command: Command, last_status: int) -> tuple[str, int]:
    if command.block.language == "python":
        return _run_python(command.text)
    if command.text == "echo $?":
        return str(last_status), 0
    words = shlex.split(command.text, comments=True)
    plain = not SHELL_SIGNS.search(re.sub(r"'[^']*'|\"[^\"$`]*\"|#.*", "", command.text))
    if words[0] == "cogworks" and plain:
        return _run_cogworks(words[1:])
    ran = subprocess.run(
        ["bash", "-c", command.text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout, ran.returncode


def _run_cogworks(words: list[str]) -> tuple[str, int]:
    from cogworks.cli.main import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(words)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return printed.getvalue(), status


def _run_python(code: str) -> tuple[str, int]:
    import traceback

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})
        except Exception:
            traceback.print_exc()
            return printed.getvalue(), 1
    return printed.getvalue(), 0


if __name__ == "__main__":
    _serve()
