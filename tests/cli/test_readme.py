"""What the documents show is executed.

A fenced block runs if its first word is `sh` or `python`. A second word says why it cannot: `setup` installs, `network`
downloads, `long` takes minutes. Those blocks are checked as far as that goes: commands must parse, make's targets must
exist, Python must compile.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogworks.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]  # the pages of docs/ are run by tests/docs


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    kind: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)[ ]?(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(document, line, *match.groups()))
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def test_every_block_is_of_a_known_kind() -> None:
    assert len(BLOCKS) > 10
    for block in BLOCKS:
        assert block.language in ("sh", "python"), f"{block}: tag it sh or python"
        assert block.kind in ("", "setup", "network", "long"), f"{block}: {block.kind} is no kind"
    for document in DOCUMENTS:
        assert (ROOT / document).read_text(encoding="utf-8").count("```") == 2 * len(blocks_of(document)), document


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_blocks_of_a_document_run_one_after_the_other(document: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    for block in blocks_of(document):
        if block.kind:
            continue
        program = ["bash", "-euc"] if block.language == "sh" else [sys.executable, "-c"]
        ran = subprocess.run(
            [*program, block.code],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, f"{block} fails:\n{block.code}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind], ids=str)
def test_blocks_that_cannot_run_here_are_well_formed(block: Block) -> None:
    if block.language == "python":
        compile(block.code, str(block), "exec")
        return
    for line in block.code.splitlines():
        check_command(shlex.split(line, comments=True))


def check_command(words: list[str]) -> None:
    """Fail unless `words` are a command that this repository understands."""
    program, *arguments = words
    if program == "cogworks":
        app.parse_args(arguments, exit_on_error=False, print_error=False)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert arguments[0] in targets
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", " ".join(arguments))) <= set(extras)
        assert (ROOT / "constraints.txt").is_file()
    else:
        assert program == ".venv/bin/pytest"
        assert (ROOT / arguments[0]).is_dir()


@pytest.mark.parametrize(
    "words", [["cogworks", "generate", "x", "--sise", "8x8"], ["make", "coffee"], ["pip", "install", ".[gpu]"], ["rm"]]
)
def test_the_negative_control_of_the_well_formed(words: list[str]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  cyclopts' errors and failed assertions
        check_command(words)


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_inside_the_repository_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = path if not name else path.parent / name
        assert linked.exists(), f"{document} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{document} links to {target}"


def test_the_figures_are_there() -> None:
    assert "FIGURES" not in (ROOT / "README.md").read_text(encoding="utf-8")
