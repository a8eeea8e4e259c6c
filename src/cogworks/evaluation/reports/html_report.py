"""A report as a page: index.html beside the videos it shows. It needs no network and runs no script."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from cogworks.evaluation.case import Outcome
from cogworks.evaluation.reports.compare import Comparison, MeasureChange, ShareChange, shown_p
from cogworks.evaluation.reports.html_page import Cell, Html, Row, bar, html, joined, page, shaded, table
from cogworks.evaluation.reports.report import ALL_RIGHT, NO_WORD, Confusion, GroupReport, Report, shown
from cogworks.weights.storage import replacing

PAGE, VIDEOS = "index.html", "videos"
HIGHER_IS_BETTER = {"CLIP score": True, "PSNR": True, "SSIM": True, "first frame PSNR": True, "flicker": False}
SMALL = 128  # pixels: wider videos get more room
_MOVING = (".mp4", ".webm")  # what a page shows as a video; the others are pictures
_SHARE_HEADS = ("", "here", "there", "gained", "lost", "p")
_MEASURE_HEADS = ("", "here", "there", "difference", "higher here", "lower here", "p")


def write_page(report: Report, folder: Path, against: Comparison | None = None) -> Path:
    """Write `folder`/index.html, whole or not at all. It shows those of `folder`/videos that are there.

    Args:
        against: a comparison to show after the figures.

    Returns:
        The page.
    """
    videos = {int(path.stem): path.name for path in sorted((folder / VIDEOS).glob("*.*")) if path.stem.isdecimal()}
    parts = [_heading(report), *(_group(name, group) for name, group in report.groups.items())]
    if report.vae is not None:
        parts.append(html("section", html("h2", "The VAE alone"), html("pre", "\n".join(report.vae.lines()))))
    if against is not None:
        parts.append(_comparison(against))
    if report.left_out:
        parts.append(
            html("section", html("h2", "Left out"), html("ul", *(html("li", what) for what in report.left_out)))
        )
    parts += [_cases(report, videos), _foot()]
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(page(f"{report.model}, {report.suite}", parts), encoding="utf-8")
    return folder / PAGE


def worst_first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those with most wrong marks first. Among equals, those whose measures are worse, by their mean rank.

    Measures of which neither more nor less is better, as motion is, take no part.
    """
    outcomes = list(outcomes)
    ranks: dict[int, list[float]] = {place: [] for place in range(len(outcomes))}
    for name, higher in HIGHER_IS_BETTER.items():
        having = [place for place in ranks if name in outcomes[place].measures]
        figures = sorted({outcomes[place].measures[name] for place in having}, reverse=not higher)
        order = {figure: rank / len(figures) for rank, figure in enumerate(figures)}  # 0 is worst; equals share a rank
        for place in having:
            ranks[place].append(order[outcomes[place].measures[name]])

    def badness(place: int) -> tuple[int, float, int]:
        wrong = sum(not right for right in outcomes[place].marks.values())
        found = ranks[place]
        return -wrong, sum(found) / len(found) if found else 1.0, outcomes[place].number

    return [outcomes[place] for place in sorted(ranks, key=badness)]


def _heading(report: Report) -> Html:
    settings = report.settings
    held = "" if report.quantize is None else f", held as {report.quantize}"
    facts = (
        f"{len(report.outcomes)} videos of {settings.num_frames} frames, {settings.width}x{settings.height}, "
        f"{settings.steps} steps of {settings.sampler}, guidance {settings.guidance_scale:g}{held}. "
        f"Weights {report.weights[:12]}. Made and judged in {_duration(report.seconds)}."
    )
    return html("header", html("h1", f"{report.model} on {report.suite}"), html("p", facts, class_="quiet"))


def _group(name: str, group: GroupReport) -> Html:
    parts = [html("h2", name[:1].upper() + name[1:]), html("p", _counted(group.total), class_="quiet")]
    if group.shares:
        rows = []
        for title, share in group.shares.items():
            low, high = share.interval
            cells: list[Cell] = [f"{share.right} of {share.total}", f"{share.value:.1%}", f"{low:.1%} to {high:.1%}"]
            rows.append(Row(title, [*cells, bar(share.value, low, high)], leads=title == ALL_RIGHT))
        heads = ("", "right", "share", "95 % interval (Wilson)", "0 to 100 %")
        parts.append(table("As asked", heads, rows, where=name))
    if group.measures:
        figures = [
            Row(title, [shown(mean.mean), shown(mean.low), shown(mean.high), str(mean.count)])
            for title, mean in group.measures.items()
        ]
        heads = ("", "mean", "lowest", "highest", "videos")
        parts.append(table("Measures", heads, figures, where=name))
    if group.confusion:
        tables = [_confusion(name, attribute, counts) for attribute, counts in group.confusion.items()]
        parts.append(joined(html("h3", "Asked and seen"), html("div", *tables, class_="side")))
    return html("section", *parts)


def _confusion(group: str, attribute: str, counts: Confusion) -> Html:
    """A row for every word that was asked for, a column for every word that was asked for or seen."""
    seen = {word for row in counts.values() for word in row}
    columns = [*sorted((seen | set(counts)) - {NO_WORD}), *([NO_WORD] if NO_WORD in seen else [])]
    rows = []
    for asked, row in sorted(counts.items()):
        total = sum(row.values())
        rows.append(
            Row(asked, [shaded(row.get(word, 0), row.get(word, 0) / total, right=word == asked) for word in columns])
        )
    return table(f"{attribute}: asked in rows, seen in columns", ["", *columns], rows, where=group, kind="confusion")


def _comparison(against: Comparison) -> Html:
    parts = [html("h2", "Against another report"), html("p", against.title())]
    for name, group in against.groups.items():
        where = f"{name}, against another report"
        parts.append(html("h3", f"{name}, {_counted(group.total)} in common"))
        if group.shares:
            shares = [_share_row(title, change) for title, change in group.shares.items()]
            parts.append(table("As asked", _SHARE_HEADS, shares, where=where))
        if group.measures:
            measures = [_measure_row(title, change) for title, change in group.measures.items()]
            parts.append(table("Measures", _MEASURE_HEADS, measures, where=where))
    note = "p: how likely changes so one-sided are if nothing changed (exact two-sided sign test over the cases)."
    return html("section", *parts, html("p", note, class_="quiet"))


def _share_row(title: str, change: ShareChange) -> Row:
    shares = [f"{share.value:.1%}" for share in (change.ours, change.other)]
    return Row(title, [*shares, str(change.gained), str(change.lost), shown_p(change.p)], leads=title == ALL_RIGHT)


def _measure_row(title: str, change: MeasureChange) -> Row:
    figures = [shown(change.ours), shown(change.other), shown(change.difference, "+")]
    return Row(title, [*figures, str(change.higher), str(change.lower), shown_p(change.p)])


def _cases(report: Report, videos: dict[int, str]) -> Html:
    ordered = worst_first(report.outcomes)
    wrong = [outcome for outcome in ordered if not outcome.all_right]
    right = [outcome for outcome in ordered if outcome.all_right]
    size = {"width": str(report.settings.width), "height": str(report.settings.height)}

    def grid(outcomes: Iterable[Outcome]) -> Html:
        figures = (_figure(outcome, videos.get(outcome.number), size) for outcome in outcomes)
        kind = "cases wide" if report.settings.width > SMALL else "cases"
        return html("ul", *(html("li", figure) for figure in figures), class_=kind)

    if not any(outcome.marks for outcome in ordered):
        return html("section", html("h2", "Cases, the worst first"), grid(right))
    parts = [html("h2", f"Not as asked, the worst first ({len(wrong)} of {len(ordered)})")]
    parts.append(grid(wrong) if wrong else html("p", "Every video is as asked."))
    if right:
        parts.append(html("details", html("summary", f"As asked ({len(right)})"), grid(right)))
    return html("section", *parts)


def _figure(outcome: Outcome, video: str | None, size: dict[str, str]) -> Html:
    name = f"Case {outcome.number}: {outcome.prompt}"
    caption = [
        html("p", outcome.prompt),
        html("p", f"{outcome.group} {outcome.number}, seed {outcome.seed}", class_="quiet"),
    ]
    facts = [fact for attribute, right in outcome.marks.items() for fact in _mark(outcome, attribute, right=right)]
    facts += [
        fact for title, figure in outcome.measures.items() for fact in (html("dt", title), html("dd", shown(figure)))
    ]
    if facts:
        caption.append(html("dl", *facts))
    return html("figure", _shown(video, name, size), html("figcaption", *caption))


def _mark(outcome: Outcome, attribute: str, *, right: bool) -> tuple[Html, Html]:
    """What was asked, and where that is not what was seen, what was seen."""
    said = [
        asked if asked == seen else f"{seen or NO_WORD}, not {asked}"
        for asked, seen in outcome.words.get(attribute, ())
    ]
    text = "; ".join(said) or ("as asked" if right else "not as asked")
    return html("dt", attribute), html("dd", text if right else html("span", text, class_="wrong-word"))


def _shown(video: str | None, name: str, size: dict[str, str]) -> Html:
    if video is None:
        return html("div", "no video kept", class_="absent")
    source = quote(f"{VIDEOS}/{video}")
    if Path(video).suffix in _MOVING:
        play = {"controls": "", "loop": "", "muted": "", "playsinline": "", "preload": "metadata"}
        return html("video", src=source, aria_label=name, **size, **play)
    return html("img", src=source, alt=name, **size, loading="lazy", decoding="async")


def _foot() -> Html:
    return html(
        "footer",
        "Written by cogworks eval; report.json beside this page holds the same. Every case can be made again from its "
        "prompt and seed.",
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _counted(cases: int) -> str:
    return "1 case" if cases == 1 else f"{cases} cases"
