"""Was a model taught something new, and has it kept what it knew?

The same prompts and seeds before and after: those that ask for hearts, a shape that no bundled model was trained on,
and those that ask for the shapes of its training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cogworks.data.shape_words import NOVEL_SHAPES
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.figures.shares import Share
from cogworks.evaluation.judging import Make, judge_all
from cogworks.evaluation.reports.report import ALL_RIGHT, GroupReport, outcome_to_json
from cogworks.evaluation.shapes.prompts import HEART_PROMPTS_FILE, PROMPTS_FILE, evaluation_prompts, heart_prompts
from cogworks.evaluation.shapes.suite import caption_cases, judge

HEARTS, OTHERS = "hearts", "others"
MAX_BEFORE, MIN_AFTER, MAX_LOSS = 0.10, 0.80, 0.05

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Marks:
    """What one model makes of both lists."""

    hearts: tuple[Outcome, ...]
    others: tuple[Outcome, ...]

    @property
    def groups(self) -> dict[str, GroupReport]:
        """The shares of both lists."""
        return {HEARTS: GroupReport.of(self.hearts), OTHERS: GroupReport.of(self.others)}

    @property
    def intruders(self) -> int:
        """In how many videos that were to show another shape a novel one is seen."""
        return sum(any(seen in NOVEL_SHAPES for _, seen in outcome.words["shape"]) for outcome in self.others)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        lists = {HEARTS: self.hearts, OTHERS: self.others}
        return {
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            "intruders": self.intruders,
            "cases": {name: [outcome_to_json(outcome) for outcome in found] for name, found in lists.items()},
        }


@dataclass(frozen=True)
class TaughtReport:
    """A model before and after it was taught hearts."""

    before: Marks
    after: Marks

    @property
    def goals(self) -> dict[str, bool]:
        """Which of the marks for a lesson that worked are met."""
        before, after = (
            {name: group.shares[ALL_RIGHT] for name, group in marks.groups.items()}
            for marks in (self.before, self.after)
        )
        lost = before[OTHERS].value - after[OTHERS].value
        return {
            f"hearts before: at most {MAX_BEFORE:.0%}": before[HEARTS].value <= MAX_BEFORE,
            f"hearts after: at least {MIN_AFTER:.0%}": after[HEARTS].value >= MIN_AFTER,
            f"others lose at most {100 * MAX_LOSS:.0f} points": lost <= MAX_LOSS + 1e-9,  # of a rounded difference
        }

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "hearts_file": HEART_PROMPTS_FILE,
            "others_file": PROMPTS_FILE,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "goals": self.goals,
        }

    def table(self) -> str:
        """The shares with their 95 % Wilson intervals, a line each, and the goals."""
        lines = [f"{'':<24}{'before':<28}after"]
        before, after = self.before.groups, self.after.groups
        for title, group in before.items():
            lines += [
                f"{f'{title}, {name}':<24}{_share(share):<28}{_share(after[title].shares[name])}"
                for name, share in group.shares.items()
            ]
        total = len(self.before.others)
        lines.append(
            f"{'others seen as hearts':<24}{f'{self.before.intruders} of {total}':<28}{self.after.intruders} of {total}"
        )
        lines += [f"{'met' if met else 'MISSED':<8}{goal}" for goal, met in self.goals.items()]
        return "\n".join(lines)


def mark(
    make: Make,
    *,
    hearts: Sequence[str] | None = None,
    others: Sequence[str] | None = None,
    batch: int = 8,
    on_progress: OnProgress | None = None,
) -> Marks:
    """Make a video for every prompt of both lists, with the number of its line as the seed, and read what it shows.

    Args:
        make: a model.
        hearts, others: prompts; None takes the committed lists of 50 and 200.
        batch: videos made at once.
        on_progress: called with ("hearts" or "others", done, in all) after every batch.

    Raises:
        ValueError: a prompt is no caption of the Shapes world; else as `judge_all`.
    """
    tell = on_progress or (lambda stage, done, total: None)

    def judged(stage: str, prompts: Sequence[str]) -> tuple[Outcome, ...]:
        def progress(done: int, total: int) -> None:
            tell(stage, done, total)

        return judge_all(make, caption_cases(prompts, stage), judge, batch=batch, on_progress=progress)

    return Marks(
        judged(HEARTS, heart_prompts() if hearts is None else hearts),
        judged(OTHERS, evaluation_prompts() if others is None else others),
    )


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{share.right} of {share.total} ({low:.0%} to {high:.0%})"
