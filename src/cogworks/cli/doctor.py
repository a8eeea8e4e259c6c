"""`cogworks doctor`: is this installation sound, and is this model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, result
from cogworks.errors import RequestError, RunError

if TYPE_CHECKING:
    from cogworks.doctor.findings import Finding, Report


def doctor(
    model: str | None = None,
    /,
    *,
    no_self_test: Annotated[Switch, Parameter(name="--no-self-test")] = False,
    variant: str | None = None,
    as_json: AsJson = False,
) -> None:
    """Check this installation, or a model before you trust it with a long run.

    Without a model: what is installed and missing, the devices and what they compute in, where caches are and how
    large, and a short run of the bundled model. With one: every tensor, the configuration against what was published,
    the tokenizer, and a small pass through each part. Neither uses the network. The exit status is 1 if a problem was
    found.

    Args:
        model: Name, Hugging Face id of a model that was downloaded, or folder.
        no_self_test: Do not run the bundled model.
        variant: Read the weight files of MODEL that carry this precision in their name, for example fp16.
        as_json: Print one JSON object instead of lines.
    """
    if model is not None and no_self_test:
        raise RequestError("--no-self-test is for a check without MODEL: a model is always tried")
    if model is None and variant is not None:
        raise RequestError("--variant needs a MODEL whose files it picks")
    with ProgressDisplay() as display:
        report = (
            _check_system(display, self_test=not no_self_test) if model is None else _check(display, model, variant)
        )
    result(_lines(report), report.to_json(), as_json=as_json)
    if report.num_problems:
        raise RunError(f"{report.subject} has {_counted(report.num_problems, 'problem')}; see above")


def _check_system(display: ProgressDisplay, *, self_test: bool) -> Report:
    display.show("looking at this installation", 0, 1)
    from cogworks.doctor.system import check_system

    report = check_system(self_test=self_test)
    display.show("looking at this installation", 1, 1)
    return report


def _check(display: ProgressDisplay, model: str, variant: str | None) -> Report:
    from cogworks.doctor.model import check_model

    def tell(what: str, done: int, total: int) -> None:
        display.show(f"reading {what}" if total > 1 else what, done, total, "tensors" if total > 1 else "")

    return check_model(model, file_variant=variant, on_progress=tell)


def _lines(report: Report) -> str:
    width = max(len(finding.part) for finding in report.findings)
    counts = [_counted(report.count("problem"), "problem"), _counted(report.count("warning"), "warning")]
    lines = [line for finding in report.findings for line in _finding(finding, width)]
    return "\n".join([*lines, f"{report.subject}: {', '.join(counts)}."])


def _finding(finding: Finding, width: int) -> list[str]:
    first = f"{finding.severity:<8} {finding.part:<{width}}  {finding.text}"
    return [first, f"{'':<{width + 11}}{finding.advice}"] if finding.advice else [first]


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"
