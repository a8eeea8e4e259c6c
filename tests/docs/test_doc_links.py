"""The pages hang together: links lead somewhere, every page can be reached, and no machine's paths are shown.

Links to headings are looked at by tests/test_doc_anchors.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Targets of links and pictures inside the repository, without headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = (match.partition("#")[0] for match in LINK.findall(text))
    return [target for target in targets if target and "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = [target for target in links(page) if not (page.parent / target).exists()]
    assert not lost, lost


def test_a_lost_link_is_found(tmp_path: Path) -> None:
    """The negative control."""
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#x) [b](https://example.org) [c](#here)\n```text\n[d](code.md)\n```\n")
    assert links(page) == ["there.md"]


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {(DOCS / target).resolve() for target in links(DOCS / "index.md")}
    pages = {page.resolve() for page in DOCS.glob("**/*.md")} - {(DOCS / "index.md").resolve()}
    assert not pages - listed, [str(page.relative_to(DOCS)) for page in pages - listed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_path_of_a_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w.~])/(?:home|root|work|tmp|opt|usr)/\S*", page.read_text(encoding="utf-8"))
    assert not found, found
