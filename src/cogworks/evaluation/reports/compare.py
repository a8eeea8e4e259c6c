"""Two reports of the same cases, compared case by case.

The same prompt with the same seed, made twice: what one got right and the other did not says more than two shares do,
because the difficulty of the cases cancels out. Source of the test: the exact two-sided sign test, which for right and
wrong is McNemar's exact test: had nothing changed, each case that changed was as likely to be gained as lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.figures.shares import Share
from cogworks.evaluation.reports.report import ALL_RIGHT, Report, shown

Pair = tuple[Outcome, Outcome]


@dataclass(frozen=True)
class ShareChange:
    """One share of both, over the cases that have it in both.

    Attributes:
        gained: cases that are right here and wrong there.
        lost: the reverse.
    """

    ours: Share
    other: Share
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """How likely so unequal a count of gained and lost is if nothing changed, in (0, 1]."""
        return sign_test(self.gained, self.lost)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "ours": self.ours.to_json(),
            "other": self.other.to_json(),
            "gained": self.gained,
            "lost": self.lost,
            "p": self.p,
        }


@dataclass(frozen=True)
class MeasureChange:
    """One measure of both, over the cases that have it in both.

    Attributes:
        ours, other: means.
        higher, lower: in how many cases ours is that.
    """

    ours: float
    other: float
    higher: int
    lower: int

    @property
    def difference(self) -> float:
        """The mean of ours less other."""
        return self.ours - self.other

    @property
    def p(self) -> float:
        """How likely so unequal a count of higher and lower is if nothing changed, in (0, 1]."""
        return sign_test(self.higher, self.lower)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {**asdict(self), "difference": self.difference, "p": self.p}


@dataclass(frozen=True)
class GroupComparison:
    """The cases of one group that are in both reports."""

    total: int
    shares: dict[str, ShareChange]
    measures: dict[str, MeasureChange]

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "total": self.total,
            "shares": {name: change.to_json() for name, change in self.shares.items()},
            "measures": {name: change.to_json() for name, change in self.measures.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """A report beside another.

    Attributes:
        ours, other: what was judged: model and the beginning of its weights' hash.
        changed: what of suite, settings and quantization differs, a sentence part each.
        groups: by name, in the order of ours; groups without a common case are left out.
        only_ours, only_other: how many cases are in one report alone.
    """

    ours: str
    other: str
    changed: tuple[str, ...]
    groups: dict[str, GroupComparison]
    only_ours: int
    only_other: int

    @property
    def total(self) -> int:
        """How many cases are in both."""
        return sum(group.total for group in self.groups.values())

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "ours": self.ours,
            "other": self.other,
            "changed": list(self.changed),
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            "only_ours": self.only_ours,
            "only_other": self.only_other,
        }

    def title(self) -> str:
        """What is compared with what, in a line."""
        apart = [
            f"{count} only {where}" for count, where in ((self.only_ours, "here"), (self.only_other, "there")) if count
        ]
        found = f"{self.total} {'case' if self.total == 1 else 'cases'} in common"
        return ", ".join([f"{self.ours} against {self.other}: {found}", *apart, *self.changed])

    def table(self) -> str:
        """A line for every share and measure of every group: here, there, what changed, and the sign test's p."""
        lines = [self.title()]
        for name, group in self.groups.items():
            lines.append(f"{name}, {group.total} in common")
            if group.shares:
                lines.append(_columns("", "here", "there", "gained", "lost", "p"))
            for title, change in group.shares.items():
                shares = [f"{share.value:.1%}" for share in (change.ours, change.other)]
                lines.append(_columns(title, *shares, str(change.gained), str(change.lost), shown_p(change.p)))
            if group.measures:
                lines.append(_columns("", "here", "there", "higher", "lower", "p"))
            for title, measure in group.measures.items():
                figures = [shown(measure.ours), shown(measure.other), str(measure.higher), str(measure.lower)]
                lines.append(_columns(title, *figures, shown_p(measure.p)))
        return "\n".join(lines)


def compare(ours: Report, other: Report) -> Comparison:
    """Compare two reports over the cases of the same group, number, prompt and seed.

    Raises:
        RequestError: no case is in both.
    """
    theirs = {_key(outcome): outcome for outcome in other.outcomes}
    pairs = [(outcome, theirs[_key(outcome)]) for outcome in ours.outcomes if _key(outcome) in theirs]
    if not pairs:
        raise RequestError(
            f"no case is in both reports: suite {ours.suite} here, {other.suite} there; compare reports of one suite"
        )
    names = dict.fromkeys(outcome.group for outcome, _ in pairs)
    groups = {name: _compare_group([pair for pair in pairs if pair[0].group == name]) for name in names}
    return Comparison(
        _label(ours),
        _label(other),
        tuple(_changes(ours, other)),
        groups,
        len(ours.outcomes) - len(pairs),
        len(other.outcomes) - len(pairs),
    )


def sign_test(gained: int, lost: int) -> float:
    """The exact two-sided sign test: the chance that a fair coin, thrown for each change, is so one-sided or more.

    Returns:
        In (0, 1]; 1 where nothing changed.

    Raises:
        ValueError: a negative count.
    """
    if min(gained, lost) < 0:
        raise ValueError(f"counts must be 0 or more, got {gained} and {lost}")
    thrown = gained + lost
    ways = sum(math.comb(thrown, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * ways / 2**thrown)


def shown_p(p: float) -> str:
    """As many digits as mean something."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _compare_group(pairs: Sequence[Pair]) -> GroupComparison:
    marked = [pair for pair in pairs if pair[0].marks and pair[1].marks]
    shares: dict[str, ShareChange] = {}
    if marked:
        shares[ALL_RIGHT] = _share_change((here.all_right, there.all_right) for here, there in marked)
    for name in dict.fromkeys(name for here, _ in marked for name in here.marks):
        both = [
            (here.marks[name], there.marks[name]) for here, there in marked if name in here.marks.keys() & there.marks
        ]
        if both:
            shares[name] = _share_change(both)
    measures: dict[str, MeasureChange] = {}
    for name in dict.fromkeys(name for here, _ in pairs for name in here.measures):
        figures = [
            (here.measures[name], there.measures[name])
            for here, there in pairs
            if name in here.measures and name in there.measures
        ]
        if figures:
            measures[name] = _measure_change(figures)
    return GroupComparison(len(pairs), shares, measures)


def _share_change(marks: Iterable[tuple[bool, bool]]) -> ShareChange:
    marks = list(marks)
    here, there = (Share(sum(each), len(marks)) for each in zip(*marks, strict=True))
    gained = sum(ours and not other for ours, other in marks)
    lost = sum(other and not ours for ours, other in marks)
    return ShareChange(here, there, gained, lost)


def _measure_change(figures: Sequence[tuple[float, float]]) -> MeasureChange:
    here, there = (math.fsum(each) / len(figures) for each in zip(*figures, strict=True))
    return MeasureChange(
        here, there, sum(ours > other for ours, other in figures), sum(ours < other for ours, other in figures)
    )


def _columns(title: str, *cells: str) -> str:
    return f"  {title:<18}" + "".join(f"{cell:>8}" for cell in cells)


def _key(outcome: Outcome) -> tuple[str, int, str, int]:
    return outcome.group, outcome.number, outcome.prompt, outcome.seed


def _label(report: Report) -> str:
    return f"{report.model} ({report.weights[:8]})"


def _changes(ours: Report, other: Report) -> list[str]:
    here, there = (
        {"suite": report.suite, **asdict(report.settings), "quantize": report.quantize or "nothing"}
        for report in (ours, other)
    )
    return [
        f"{name.replace('_', ' ')} {value}, there {there[name]}" for name, value in here.items() if value != there[name]
    ]
