"""What an evaluation found: shares, confusions and measures by group, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from cogworks.config.variants import GenerationDefaults
from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.figures.shares import Mean, Share

if TYPE_CHECKING:
    from cogworks.config.measures import Quantization
    from cogworks.evaluation.shapes.vae_report import VAEReport

__all__ = ["ALL_RIGHT", "FORMAT", "GroupReport", "Mean", "Report", "Share", "outcome_from_json", "outcome_to_json"]

FORMAT = 1  # of the JSON; another number is another meaning
ALL_RIGHT = "all four"  # the share of the cases that have every mark
NO_WORD = "none"  # what a confusion table calls what fits no word

Confusion = dict[str, dict[str, int]]


@dataclass(frozen=True)
class GroupReport:
    """What came of the cases of one group.

    Attributes:
        total: how many there are.
        shares: "all four", then every mark, of the cases that have marks; empty where none has.
        confusion: attribute -> asked word -> seen word -> count, of objects; "none" is what fits no word.
        measures: name -> mean over the cases that have it.
    """

    total: int
    shares: dict[str, Share]
    confusion: dict[str, Confusion]
    measures: dict[str, Mean]

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Self:
        """Counted from the outcomes of a group."""
        outcomes = list(outcomes)
        marked = [outcome for outcome in outcomes if outcome.marks]
        shares = {ALL_RIGHT: Share(sum(outcome.all_right for outcome in marked), len(marked))} if marked else {}
        for name in _names(outcome.marks for outcome in marked):
            marks = [outcome.marks[name] for outcome in marked if name in outcome.marks]
            shares[name] = Share(sum(marks), len(marks))
        measures = {
            name: Mean.of([outcome.measures[name] for outcome in outcomes if name in outcome.measures])
            for name in _names(outcome.measures for outcome in outcomes)
        }
        confusion = {name: _confusion(outcomes, name) for name in _names(outcome.words for outcome in outcomes)}
        return cls(len(outcomes), shares, confusion, measures)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "total": self.total,
            "shares": {name: share.to_json() for name, share in self.shares.items()},
            "confusion": self.confusion,
            "measures": {name: mean.to_json() for name, mean in self.measures.items()},
        }


@dataclass(frozen=True)
class Report:
    """What `cogworks eval` found of one model.

    Attributes:
        model: name of the variant.
        weights: SHA-256, in hex, over the files that the model was loaded from.
        suite: name of what it was asked.
        settings: size, length and sampling of every video.
        quantize: how the transformer was held, where that is not as it is published.
        outcomes: what came of each case, in the order of the suite.
        vae: what came of the clips that went through the VAE; None where none did.
        left_out: what was not measured, and why, a sentence each.
        seconds: the time it took, over all the runs that it took.
    """

    model: str
    weights: str
    suite: str
    settings: GenerationDefaults
    quantize: Quantization | None
    outcomes: tuple[Outcome, ...]
    vae: VAEReport | None
    left_out: tuple[str, ...]
    seconds: float

    @cached_property
    def groups(self) -> dict[str, GroupReport]:
        """What came of each group, in the order of the suite."""
        names = dict.fromkeys(outcome.group for outcome in self.outcomes)
        return {name: GroupReport.of(o for o in self.outcomes if o.group == name) for name in names}

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "format": FORMAT,
            "model": self.model,
            "weights": self.weights,
            "suite": self.suite,
            "settings": asdict(self.settings),
            "quantize": self.quantize,
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            "vae": None if self.vae is None else self.vae.to_json(),
            "left_out": list(self.left_out),
            "seconds": round(self.seconds, 1),
            "cases": [outcome_to_json(outcome) for outcome in self.outcomes],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave; the groups are counted again.

        Raises:
            RequestError: it is no report, or one of another format.
        """
        from cogworks.evaluation.shapes.vae_report import VAEReport

        if values.get("format") != FORMAT:
            raise RequestError(f"this is no report of `cogworks eval` in format {FORMAT}; evaluate the model again")
        try:
            return cls(
                model=values["model"],
                weights=values["weights"],
                suite=values["suite"],
                settings=GenerationDefaults(**values["settings"]),
                quantize=values["quantize"],
                outcomes=tuple(outcome_from_json(case) for case in values["cases"]),
                vae=None if values["vae"] is None else VAEReport.from_json(values["vae"]),
                left_out=tuple(values["left_out"]),
                seconds=float(values["seconds"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RequestError(f"the report is damaged ({error!r}); evaluate the model again") from None


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, as a dict that `json.dumps` takes."""
    return {
        "number": outcome.number,
        "group": outcome.group,
        "prompt": outcome.prompt,
        "seed": outcome.seed,
        "marks": outcome.marks,
        "words": {name: [list(pair) for pair in pairs] for name, pairs in outcome.words.items()},
        "measures": outcome.measures,
    }


def outcome_from_json(values: Mapping[str, Any]) -> Outcome:
    """What `outcome_to_json` gave. KeyError, TypeError or AttributeError where it is something else."""
    return Outcome(
        number=values["number"],
        group=values["group"],
        prompt=values["prompt"],
        seed=values["seed"],
        marks=dict(values["marks"]),
        words={name: [(asked, seen) for asked, seen in pairs] for name, pairs in values["words"].items()},
        measures=dict(values["measures"]),
    )


def table(report: Report) -> str:
    """A line for every share, with its 95 % Wilson interval, and for every measure, with its extremes."""
    settings = report.settings
    lines = [
        f"{report.model}: suite {report.suite}, {_counted(len(report.outcomes), 'video')}, {settings.steps} steps of "
        f"{settings.sampler}, guidance {settings.guidance_scale:g}"
        + ("" if report.quantize is None else f", {report.quantize}")
    ]
    for name, group in report.groups.items():
        lines.append(f"{name}, {_counted(group.total, 'case')}")
        lines += [share_line(title, share) for title, share in group.shares.items()]
        lines += [mean_line(title, mean) for title, mean in group.measures.items()]
    if report.vae is not None:
        clips = report.vae.one_object.unchanged.total
        lines += [f"VAE, {_counted(clips, 'unseen clip')} of each kind", *(f"  {line}" for line in report.vae.lines())]
    lines += [f"left out: {what}" for what in report.left_out]
    return "\n".join(lines)


def share_line(name: str, share: Share) -> str:
    """A share as a line of a table."""
    low, high = share.interval
    return f"  {name:<18}{share.right:>4} of {share.total} ({share.value:.0%}, 95 % interval {low:.0%} to {high:.0%})"


def mean_line(name: str, mean: Mean) -> str:
    """A measure as a line of a table."""
    return f"  {name:<18}{shown(mean.mean):>8} on average ({shown(mean.low)} to {shown(mean.high)})"


def shown(figure: float, sign: str = "") -> str:
    """A measure with as many digits as one looks at, whatever its unit; `sign` "+" shows that of a difference."""
    return f"{figure:{sign}.3f}" if abs(figure) < 10 else f"{figure:{sign}.2f}"


def _names(dicts: Iterable[Mapping[str, object]]) -> list[str]:
    """All keys, each once, in the order in which they come."""
    return list(dict.fromkeys(name for names in dicts for name in names))


def _confusion(outcomes: Iterable[Outcome], attribute: str) -> Confusion:
    found: Confusion = {}
    pairs = [pair for outcome in outcomes for pair in outcome.words.get(attribute, ())]
    for asked, seen in sorted(pairs, key=lambda pair: (pair[0], pair[1] or "")):
        counts = found.setdefault(asked, {})
        counts[seen or NO_WORD] = counts.get(seen or NO_WORD, 0) + 1
    return found


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
