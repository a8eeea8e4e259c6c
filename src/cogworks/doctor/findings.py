"""What the doctor found, and how bad it is. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")

_SHOWN = 6
_KEPT = 50


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: "ok" as it should be; "note" worth knowing; "warning" works, perhaps not as meant; "problem" will not
            work, or gives wrong videos.
        part: what was looked at, for example "vae".
        text: one sentence.
        advice: what to do about it.
        values: the same for programs: anything JSON can hold.
    """

    severity: Severity
    part: str
    text: str
    advice: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        found = {"severity": self.severity, "part": self.part, "text": self.text}
        return {
            **found,
            **({"advice": self.advice} if self.advice else {}),
            **({"values": self.values} if self.values else {}),
        }


@dataclass(frozen=True)
class Report:
    """All findings about one subject, in the order they were made."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def num_problems(self) -> int:
        return self.count("problem")

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        counts = {severity: self.count(severity) for severity in SEVERITIES}
        return {"subject": self.subject, "counts": counts, "findings": [each.to_json() for each in self.findings]}


def listed(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def kept(names: Sequence[str]) -> dict[str, object]:
    """`names` for a program: their number, and not more of them than it can want."""
    return {"count": len(names), "names": list(names[:_KEPT])}


def in_bytes(number: int) -> str:
    """A size for people, in units of 1000."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number} bytes"
