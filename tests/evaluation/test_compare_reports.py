"""Two reports compared: pairing, the sign test, and what the table says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.figures.shares import Share
from cogworks.evaluation.reports.compare import compare, sign_test
from cogworks.evaluation.reports.report import Report


def outcome(number: int, marks: str, group: str = "one object", **measures: float) -> Outcome:
    """`marks`: s and c for a shape and a colour that are right, - for wrong ones."""
    right = {"shape": marks[0] == "s", "colour": marks[1] == "c"} if marks else {}
    return Outcome(number, group, f"prompt {number}", number, right, measures=measures)


def report(*outcomes: Outcome) -> Report:
    return Report("tiny", "abcdef01" * 8, "shapes", VARIANTS["tiny"].defaults, None, outcomes, None, (), 1.0)


def test_sign_test_by_counting_coins() -> None:
    for gained in range(7):
        for lost in range(7 - gained):
            thrown = gained + lost
            as_extreme = sum(abs(2 * heads.bit_count() - thrown) >= abs(gained - lost) for heads in range(2**thrown))
            assert sign_test(gained, lost) == pytest.approx(as_extreme / 2**thrown)


def test_sign_test_in_known_cases() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(1, 9) == pytest.approx(22 / 1024)
    assert sign_test(9, 1) == sign_test(1, 9)
    assert 0 < sign_test(0, 1000) < 1e-300
    with pytest.raises(ValueError, match="0 or more"):
        sign_test(-1, 2)


def test_gained_and_lost_are_counted_case_by_case() -> None:
    ours = report(outcome(1, "sc"), outcome(2, "sc"), outcome(3, "-c"), outcome(4, "s-"))
    other = report(outcome(1, "sc"), outcome(2, "--"), outcome(3, "sc"), outcome(4, "--"))
    group = compare(ours, other).groups["one object"]
    found = {name: (change.ours, change.other, change.gained, change.lost) for name, change in group.shares.items()}
    assert found == {
        "all four": (Share(2, 4), Share(2, 4), 1, 1),
        "shape": (Share(3, 4), Share(2, 4), 2, 1),
        "colour": (Share(3, 4), Share(2, 4), 1, 0),
    }


def test_the_other_way_round_gained_is_lost() -> None:
    a = report(outcome(1, "sc", psnr=3.0), outcome(2, "--", psnr=2.0), outcome(3, "s-", psnr=1.0))
    b = report(outcome(1, "s-", psnr=2.0), outcome(2, "sc", psnr=2.0), outcome(3, "-c", psnr=0.0))
    there, back = compare(a, b).groups["one object"], compare(b, a).groups["one object"]
    for name, change in there.shares.items():
        assert (change.gained, change.lost) == (back.shares[name].lost, back.shares[name].gained)
        assert change.p == back.shares[name].p
    change = there.measures["psnr"]
    assert (change.difference, change.higher, change.lower) == (pytest.approx(2 / 3), 2, 0)
    assert back.measures["psnr"].difference == pytest.approx(-2 / 3)


def test_a_report_against_itself_changes_nothing() -> None:
    same = report(outcome(1, "sc", psnr=3.0), outcome(2, "--", psnr=2.0))
    comparison = compare(same, same)
    (group,) = comparison.groups.values()
    assert all((change.gained, change.lost, change.p) == (0, 0, 1) for change in group.shares.values())
    assert group.measures["psnr"].difference == 0
    assert comparison.changed == ()


def test_only_common_cases_count() -> None:
    ours = report(outcome(1, "sc"), outcome(2, "--"), outcome(1, "sc", "two objects"))
    other = report(outcome(1, "sc"), replace(outcome(2, "sc"), seed=7), outcome(9, "sc"))
    comparison = compare(ours, other)
    assert list(comparison.groups) == ["one object"]
    assert comparison.groups["one object"].shares["all four"].ours == Share(1, 1)
    assert (comparison.total, comparison.only_ours, comparison.only_other) == (1, 2, 2)


def test_marks_and_measures_of_one_side_alone_are_left_out() -> None:
    ours = report(outcome(1, "", flicker=1.0, motion=2.0), outcome(2, "sc", motion=4.0))
    other = report(outcome(1, "sc", motion=3.0), outcome(2, "", flicker=2.0))
    (group,) = compare(ours, other).groups.values()
    assert group.shares == {}
    assert list(group.measures) == ["motion"]
    assert math.isclose(group.measures["motion"].ours, 2)


def test_reports_without_a_common_case_are_refused() -> None:
    with pytest.raises(RequestError, match="no case is in both"):
        compare(report(outcome(1, "sc")), report(outcome(2, "sc")))


def test_table_and_json_say_what_changed() -> None:
    ours = report(outcome(1, "sc", flicker=1.0), outcome(2, "sc", flicker=1.5))
    other = report(outcome(1, "sc", flicker=2.0), outcome(2, "--", flicker=2.0), outcome(3, "sc"))
    other = replace(other, settings=replace(other.settings, steps=99), weights="12345678" * 8)
    comparison = compare(ours, other)
    table = comparison.table()
    lines = [line.split() for line in table.splitlines()]
    assert table.splitlines()[0] == (
        "tiny (abcdef01) against tiny (12345678): 2 cases in common, 1 only there, "
        f"steps {ours.settings.steps}, there 99"
    )
    assert ["shape", "100.0%", "50.0%", "1", "0", "1.000"] in lines
    assert ["flicker", "1.250", "2.000", "0", "2", "0.500"] in lines
    values = json.loads(json.dumps(comparison.to_json()))
    assert values["groups"]["one object"]["shares"]["shape"]["gained"] == 1
    assert values["groups"]["one object"]["measures"]["flicker"]["difference"] == -0.75
