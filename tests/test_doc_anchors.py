"""Where code or a page points into the docs, there is a heading to arrive at."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FROM_CODE = re.compile(r"(docs/[\w-]+\.md)#([\w-]+)")
FROM_PAGE = re.compile(r"\]\(([\w/.-]*)#([\w-]+)\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them in addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pointers() -> list[tuple[Path, Path, str]]:
    """(file, page, anchor) of every pointer."""
    found = []
    for file in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        found += [(file, ROOT / page, anchor) for page, anchor in FROM_CODE.findall(file.read_text())]
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target, anchor in FROM_PAGE.findall(page.read_text()):
            found.append((page, (page.parent / target).resolve() if target else page, anchor))
    return found


def test_every_pointer_into_the_docs_arrives() -> None:
    lost = [
        f"{file.relative_to(ROOT)}: {page.name}#{anchor}"
        for file, page, anchor in pointers()
        if not page.is_file() or anchor not in anchors(page)
    ]
    assert not lost, lost


def test_there_is_something_to_check() -> None:
    """The negative control: pointers are found, and a heading that is not there is missed."""
    names = {anchor for _, page, anchor in pointers() if page.name == "parity.md"}
    assert {"draws", "frame-counts", "rotary-positions", "invert_scale_latents", "next-timestep"} <= names
    assert "no-such-heading" not in anchors(ROOT / "docs" / "parity.md")
