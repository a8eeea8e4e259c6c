"""The page of a report: well formed, alone in the world, escaped, and the worst cases first."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cogworks.config.variants import VARIANTS
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.reports.compare import compare
from cogworks.evaluation.reports.html_report import worst_first, write_page
from cogworks.evaluation.reports.report import Report

_VOID = {"meta", "img", "br"}
_NASTY = '<script>alert("1 & 2")</script> $body'


class Page(HTMLParser):
    """Checks that elements nest, and collects them with the text inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(self.open), data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


def outcome(number: int, seen: tuple[str | None, str] = ("circle", "red"), **measures: float) -> Outcome:
    shape, colour = seen
    return Outcome(
        number,
        "one object",
        f"a red circle, number {number}",
        number,
        {"shape": shape == "circle", "colour": colour == "red"},
        {"shape": [("circle", shape)], "colour": [("red", colour)]},
        measures,
    )


OUTCOMES = (outcome(1), outcome(2, ("square", "red")), outcome(3, (None, "blue")), outcome(4, ("circle", "red")))


def report_of(*outcomes: Outcome) -> Report:
    left_out = ("CLIP score: no folder was given",)
    return Report("tiny", "ab" * 32, "shapes", VARIANTS["tiny"].defaults, None, outcomes, None, left_out, 75.0)


def written(folder: Path, report: Report, endings: str = ".gif", **options: object) -> Page:
    (folder / "videos").mkdir()
    for case in report.outcomes:
        (folder / f"videos/{case.number:04d}{endings}").write_bytes(b"")
    path = write_page(report, folder, **options)  # type: ignore[arg-type]
    assert path == folder / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def test_worst_first_by_wrong_marks() -> None:
    assert [case.number for case in worst_first(OUTCOMES)] == [3, 2, 1, 4]


def test_worst_first_by_measures_where_marks_are_equal() -> None:
    cases = [
        outcome(1, **{"PSNR": 30.0, "flicker": 1.0}),
        outcome(2, **{"PSNR": 10.0, "flicker": 9.0}),
        outcome(3, **{"PSNR": 20.0, "flicker": 5.0, "motion": 99.0}),
        outcome(4, ("square", "red"), **{"PSNR": 40.0, "flicker": 0.0}),
    ]
    assert [case.number for case in worst_first(cases)] == [4, 2, 3, 1]
    still = [outcome(1, motion=9.0), outcome(2, motion=0.0)]
    assert [case.number for case in worst_first(still)] == [1, 2]


def test_the_page_needs_nothing_but_its_videos(tmp_path: Path) -> None:
    page = written(tmp_path, report_of(*OUTCOMES))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|@import|url\(", text)
    assert not page.all("script")
    assert not page.all("link")
    sources = [unquote(image["src"]) for image in page.all("img")]
    assert sources == [f"videos/{number:04d}.gif" for number in (3, 2, 1, 4)]
    assert all((tmp_path / source).is_file() for source in sources)


def test_the_page_is_accessible(tmp_path: Path) -> None:
    page = written(tmp_path, report_of(*OUTCOMES))
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("img")[0]["alt"] == "Case 3: a red circle, number 3"
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert len(page.all("h1")) == len(page.all("main")) == 1


def test_figures_and_confusions_are_in_tables(tmp_path: Path) -> None:
    page = written(tmp_path, report_of(*(replace(case, measures={"flicker": 1.5}) for case in OUTCOMES)))
    assert {"2 of 4", "50.0%", "15.0% to 85.0%", "3 of 4", "1.500"} <= set(page.words("td"))
    assert {"all four", "shape", "colour", "flicker", "none", "square"} <= set(page.words("th"))
    shades = [(cell.get("class"), cell.get("style")) for cell in page.all("td") if "--share" in cell.get("style", "")]
    assert ("right", "--share:0.500") in shades
    assert ("wrong", "--share:0.250") in shades
    assert "square, not circle" in page.words("dd")
    assert "none, not circle" in page.words("dd")
    assert page.words("li")[0] == "CLIP score: no folder was given"


def test_everything_is_escaped(tmp_path: Path) -> None:
    nasty = Outcome(1, _NASTY, _NASTY, 1, {_NASTY: False}, {_NASTY: [(_NASTY, _NASTY)]}, {_NASTY: 1.0})
    report = replace(report_of(nasty), model=_NASTY, suite=_NASTY, left_out=(_NASTY,))
    page = written(tmp_path, report, against=compare(report, report))
    assert not page.all("script")
    assert page.words("p").count(_NASTY) == 1
    assert page.all("img")[0]["alt"] == f"Case 1: {_NASTY}"


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_films_can_be_played(tmp_path: Path, ending: str) -> None:
    page = written(tmp_path, report_of(Outcome(1, "prompts", "a cat", 1, measures={"motion": 2.0})), ending)
    (video,) = page.all("video")
    assert video["src"] == f"videos/0001{ending}"
    assert {"controls", "loop", "muted", "playsinline"} <= set(video)
    assert video["aria-label"] == "Case 1: a cat"
    assert "Cases, the worst first" in page.words("h2")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report = report_of(OUTCOMES[0])
    page = Page(write_page(report, tmp_path).read_text(encoding="utf-8"))
    assert "no video kept" in page.words("figure")
    assert "Every video is as asked." in page.words("p")
    assert "The VAE alone" not in page.words("h2")


def test_a_comparison_comes_along(tmp_path: Path) -> None:
    ours = report_of(*OUTCOMES)
    other = replace(ours, outcomes=tuple(outcome(number) for number in range(1, 5)), weights="cd" * 32)
    page = written(tmp_path, ours, against=compare(ours, other))
    assert "tiny (abababab) against tiny (cdcdcdcd): 4 cases in common" in page.words("p")
    assert {"gained", "lost", "p"} <= set(page.words("th"))
    assert "0.500" in page.words("td")  # two lost, none gained
