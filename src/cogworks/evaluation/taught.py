"""Was a model taught something new, and has it kept what it knew?

The same prompts and seeds before and after: those that ask for hearts, a shape that no bundled model was trained on,
and those that ask for the shapes of its training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cogworks.data.shape_words import NOVEL_SHAPES
from cogworks.evaluation.prompts import HEART_PROMPTS_FILE, PROMPTS_FILE, evaluation_prompts, heart_prompts
from cogworks.evaluation.shapes_eval import ATTRIBUTES, Generate, ShapesReport, Share, evaluate_shapes

FIRST_SEED = 1  # the seed of a prompt's video is the number of its line, as in `cogworks eval`
MAX_BEFORE, MIN_AFTER, MAX_LOSS = 0.10, 0.80, 0.05

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Marks:
    """What one model makes of both lists."""

    hearts: ShapesReport
    others: ShapesReport

    @property
    def intruders(self) -> int:
        """In how many videos that were to show another shape a novel one is seen."""
        return sum(row.seen.shape in NOVEL_SHAPES for row in self.others.rows)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {"hearts": self.hearts.to_json(), "others": self.others.to_json(), "intruders": self.intruders}


@dataclass(frozen=True)
class TaughtReport:
    """A model before and after it was taught hearts."""

    before: Marks
    after: Marks

    @property
    def goals(self) -> dict[str, bool]:
        """Which of the marks for a lesson that worked are met."""
        lost = self.before.others.all_four.value - self.after.others.all_four.value
        return {
            f"hearts before: at most {MAX_BEFORE:.0%}": self.before.hearts.all_four.value <= MAX_BEFORE,
            f"hearts after: at least {MIN_AFTER:.0%}": self.after.hearts.all_four.value >= MIN_AFTER,
            f"others lose at most {100 * MAX_LOSS:.0f} points": lost <= MAX_LOSS + 1e-9,  # of a rounded difference
        }

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "hearts_file": HEART_PROMPTS_FILE,
            "others_file": PROMPTS_FILE,
            "first_seed": FIRST_SEED,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "goals": self.goals,
        }

    def table(self) -> str:
        """The shares with their 95 % Wilson intervals, a line each, and the goals."""
        lines = [f"{'':<24}{'before':<28}after"]
        for title, before, after in (
            ("hearts", self.before.hearts, self.after.hearts),
            ("others", self.before.others, self.after.others),
        ):
            pairs = {"all four": (before.all_four, after.all_four)}
            pairs |= {name: (before.accuracy(name), after.accuracy(name)) for name in ATTRIBUTES}
            lines += [f"{f'{title}, {name}':<24}{_share(b):<28}{_share(a)}" for name, (b, a) in pairs.items()]
        total = len(self.before.others.rows)
        lines.append(
            f"{'others seen as hearts':<24}{f'{self.before.intruders} of {total}':<28}{self.after.intruders} of {total}"
        )
        lines += [f"{'met' if met else 'MISSED':<8}{goal}" for goal, met in self.goals.items()]
        return "\n".join(lines)


def mark(
    generate: Generate,
    *,
    hearts: Sequence[str] | None = None,
    others: Sequence[str] | None = None,
    batch: int = 8,
    on_progress: OnProgress | None = None,
) -> Marks:
    """Generate a video for every prompt of both lists and read what it shows.

    Args:
        generate: (prompts, seeds) of up to `batch` -> one (T, H, W, 3) uint8 array for each.
        hearts, others: prompts; None takes the committed lists of 50 and 100.
        on_progress: called with ("hearts" or "others", done, in all) after every batch.

    Raises:
        ValueError: as `evaluate_shapes`.
    """
    tell = on_progress or (lambda stage, done, total: None)

    def judge(stage: str, prompts: Sequence[str]) -> ShapesReport:
        def progress(done: int, total: int) -> None:
            tell(stage, done, total)

        return evaluate_shapes(generate, prompts, batch=batch, first_seed=FIRST_SEED, on_progress=progress)

    return Marks(
        judge("hearts", heart_prompts() if hearts is None else hearts),
        judge("others", evaluation_prompts() if others is None else others),
    )


def _share(share: Share) -> str:
    values = share.to_json()
    return f"{share.right} of {share.total} ({values['low']:.0%} to {values['high']:.0%})"
