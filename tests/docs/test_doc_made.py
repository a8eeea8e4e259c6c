"""What is made and not written is up to date: options, tables of the planner, the API reference."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import api  # noqa: E402
import blocks  # noqa: E402
import refresh  # noqa: E402


def test_the_api_reference_is_what_the_docstrings_say() -> None:
    assert api.PAGE.read_text(encoding="utf-8") == api.make_page(), "run python docs/api.py"


def test_a_docstring_becomes_paragraphs_lists_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text(
        '''
class Thing(Base):
    """A thing.

    Attributes:
        size: in pixels, and
            more of it.
    """

    size: int = 3
    _hidden: int = 4

    def __init__(self, size: int) -> None: ...

    def grow(self, by: float = 2.0, *, slowly: bool = False) -> None:
        """Grow.

        Raises:
            ValueError: too large.
        """

    def _shrink(self) -> None: ...
'''
    )
    monkeypatch.setattr(api, "SOURCE", tmp_path)
    monkeypatch.setattr(api, "SECTIONS", (("Things", "", (("module", "Thing"),)),))
    api._module.cache_clear()
    page = api.make_page()
    api._module.cache_clear()
    assert "class Thing(Base)\n    size: int = 3\n\nThing(size: int)\n```" in page
    assert "- `size`: in pixels, and more of it." in page
    assert "def grow(by: float = 2.0, *, slowly: bool = False) -> None" in page
    assert "- `ValueError`: too large." in page
    assert "_hidden" not in page
    assert "shrink" not in page


def test_a_name_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "SECTIONS", (("Things", "", (("errors", "NoSuchError"),)),))
    with pytest.raises(KeyError):
        api.make_page()


WITH_TABLES = [page for page in blocks.pages() if "<!-- end -->" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.name == "hardware.md" else ()) for page in WITH_TABLES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_tables_of_a_page_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert refresh.with_tables(text) == text, f"run python docs/refresh.py {page.relative_to(ROOT)}"


def test_every_verb_has_a_page_with_its_options() -> None:
    from cogworks.cli.main import app

    for verb in (name for name in app if not name.startswith("-")):
        page = (ROOT / "docs" / "cli" / f"{verb}.md").read_text(encoding="utf-8")
        below = [name for name in app[verb] if not name.startswith("-")]
        for command in [f"{verb} {name}" for name in below] or [verb]:
            assert f"<!-- options: {command} -->\n|" in page, f"docs/cli/{verb}.md has no table for {command}"


def test_a_table_has_every_option() -> None:
    """The negative control of the tables: they are made from the program, and so have what it has."""
    table = "\n".join(refresh.options("generate"))
    for option in ("`PROMPT`", "`--seed N`", "`--no-dynamic-guidance`", "`--output OUTPUT`, `-o`", "`--json`"):
        assert option in table
    assert "`dpm-ode`" in table
    assert "--sise" not in table


def test_outputs_are_replaced_where_they_differ() -> None:
    text = "```console\n$ a\nold\n$ b\nin 3 s\n```\nwords\n```console\n$ c\n```\n"
    found = blocks.blocks_of(text)
    commands = [
        blocks.Command(found[0], "a", "old", "new"),
        blocks.Command(found[0], "b", "in 3 s", "in 4 s"),
        blocks.Command(found[1], "c", "", "more\nlines"),
    ]
    assert refresh.with_outputs(text, commands) == (
        "```console\n$ a\nnew\n$ b\nin 3 s\n```\nwords\n```console\n$ c\nmore\nlines\n```\n"
    )
