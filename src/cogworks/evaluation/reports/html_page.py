"""The look of a report page: one HTML file without scripts, fonts or anything from elsewhere.

Everything that is passed in as text is escaped here; what is passed in as HTML was made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

_VOID = ("img",)  # what is used of those without content

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1d1f; --quiet: #62666d; --line: #dfe1e4; --raised: #f4f4f2;
  --right: #1a7f4b; --wrong: #b8382e; --mark: #3662b3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17181a; --ink: #e7e8ea; --quiet: #9a9fa8; --line: #34373c; --raised: #1f2124;
    --right: #5cc48d; --wrong: #f0857b; --mark: #8fb2f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { margin: 0; font-size: 1.75rem; font-weight: 600; letter-spacing: -0.01em; }
h2 { margin: 3.5rem 0 0.25rem; font-size: 1.25rem; font-weight: 600; }
h3 { margin: 2rem 0 0.5rem; font-size: 1rem; font-weight: 600; }
p { margin: 0.25rem 0 0.75rem; max-width: 44rem; }
.quiet, caption, figcaption dt { color: var(--quiet); }
a { color: var(--mark); }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.side { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: flex-start; }
.side > * { max-width: 100%; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
caption { padding: 0 0 0.35rem; text-align: left; font-size: 0.875rem; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 400; }
thead > tr > * { border-bottom: 1px solid var(--line); color: var(--quiet); font-size: 0.8125rem; }
tbody th, tbody td { border-bottom: 1px solid var(--line); }
tbody tr.lead > * { font-weight: 600; }
.confusion td { padding: 0.3rem 0.6rem; text-align: center; min-width: 3rem; }
.confusion thead th { padding: 0.3rem 0.6rem; text-align: center; }
.confusion td.right { background: color-mix(in srgb, var(--right) calc(var(--share) * 38%), transparent); }
.confusion td.wrong { background: color-mix(in srgb, var(--wrong) calc(20% + var(--share) * 40%), transparent); }
.confusion td.none { color: color-mix(in srgb, var(--quiet) 45%, transparent); }
.bar { position: relative; display: block; width: 11rem; height: 1rem; }
.bar::before, .bar i, .bar b { content: ""; position: absolute; top: 50%; transform: translateY(-50%); }
.bar::before { left: 0; right: 0; height: 1px; background: var(--line); }
.bar i { left: calc(var(--low) * 100%); right: calc((1 - var(--high)) * 100%); height: 4px; border-radius: 2px;
  background: color-mix(in srgb, var(--mark) 45%, transparent); }
.bar b { left: calc(var(--value) * 100%); width: 8px; height: 8px; margin-left: -4px; border-radius: 50%;
  background: var(--mark); }
pre { margin: 0.5rem 0; overflow-x: auto; font: 0.875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
ul { margin: 0.5rem 0; padding-left: 1.25rem; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 2rem 1.5rem; margin: 1rem 0;
  padding: 0; list-style: none; }
.cases.wide { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; }
figure img, figure video { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--raised); }
figure img { image-rendering: pixelated; }
.absent { display: grid; place-items: center; aspect-ratio: 1; border-radius: 4px; background: var(--raised);
  color: var(--quiet); font-size: 0.875rem; }
figcaption { margin-top: 0.5rem; font-size: 0.875rem; line-height: 1.4; }
figcaption p { margin: 0 0 0.25rem; }
figcaption dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 0.75rem; margin: 0.35rem 0 0; }
figcaption dd { margin: 0; }
.wrong-word { color: var(--wrong); }
details { margin: 2rem 0; }
summary { cursor: pointer; color: var(--mark); }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: 0.875rem; }
@media (max-width: 36rem) { body { padding: 1.5rem 1rem 3rem; } .bar { width: 7rem; } }
@media print { details::details-content { content-visibility: visible; } .cases { break-inside: avoid; } }
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Html:
    """A piece of a page, escaped where it had to be."""

    text: str


Cell = str | Html


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is about, its cells, and whether it leads."""

    head: str
    cells: Sequence[Cell]
    leads: bool = False


def page(title: str, parts: Iterable[Html]) -> str:
    """A whole document."""
    return _PAGE.substitute(title=escape(title), body="\n".join(part.text for part in parts))


def html(tag: str, *content: Cell, **attributes: str) -> Html:
    """An element. `class_` is the attribute class, which is left out if it is empty."""
    given = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
    words = "".join(f' {name}="{escape(value)}"' for name, value in given.items() if value or name != "class")
    return Html(f"<{tag}{words}>" + ("" if tag in _VOID else f"{joined(*content).text}</{tag}>"))


def joined(*content: Cell) -> Html:
    """Pieces one after the other."""
    return Html("".join(_escaped(piece) for piece in content))


def table(caption: str, heads: Sequence[str], rows: Iterable[Row], *, where: str, kind: str = "") -> Html:
    """A table whose first column says what a row is about; it scrolls where the page is too narrow.

    Args:
        heads: of the columns; an empty one is a corner.
        where: which part of the page it belongs to, for those who hear it by itself.
        kind: its class.
    """
    head = html("tr", *(html("th", name, scope="col") if name else html("td") for name in heads))
    body = [
        html("tr", html("th", row.head, scope="row"), *map(_cell, row.cells), class_="lead" if row.leads else "")
        for row in rows
    ]
    inside = html("table", html("caption", caption), html("thead", head), html("tbody", *body), class_=kind)
    return html("div", inside, class_="scroll", role="region", aria_label=f"{where}: {caption}", tabindex="0")


def bar(value: float, low: float, high: float) -> Html:
    """A share in 0..1 as a point on its interval; for the eye alone, as the figures stand beside it."""
    style = f"--value:{value:.4f};--low:{low:.4f};--high:{high:.4f}"
    return html("span", html("i"), html("b"), class_="bar", style=style, aria_hidden="true")


def shaded(count: int, share: float, *, right: bool) -> Html:
    """A cell of a confusion table; `share` is that of its row."""
    if not count:
        return html("td", "0", class_="none")
    return html("td", str(count), class_="right" if right else "wrong", style=f"--share:{share:.3f}")


def _cell(cell: Cell) -> Html:
    return cell if isinstance(cell, Html) and cell.text.startswith("<td") else html("td", cell)


def _escaped(piece: Cell) -> str:
    return piece.text if isinstance(piece, Html) else escape(piece)
