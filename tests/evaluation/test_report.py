"""A report counts what its outcomes say, and comes back from JSON as it was."""

from __future__ import annotations

import json

import pytest

from cogworks.config.variants import TINY
from cogworks.errors import RequestError
from cogworks.evaluation.case import Outcome
from cogworks.evaluation.reports.report import FORMAT, GroupReport, Mean, Report, Share, table
from cogworks.evaluation.shapes.vae_report import GivenBack, VAEReport

OUTCOMES = (
    Outcome(
        1,
        "one",
        "p1",
        1,
        {"shape": True, "colour": True},
        {"shape": [("ring", "ring")], "colour": [("red", "red")]},
        {"first frame PSNR": 20.0},
    ),
    Outcome(
        2,
        "one",
        "p2",
        2,
        {"shape": False, "colour": True},
        {"shape": [("ring", None)], "colour": [("red", "red")]},
        {"first frame PSNR": 30.0},
    ),
    Outcome(3, "two", "p3", 1, {"shape": False}, {"shape": [("ring", "star"), ("star", "star")]}),
    Outcome(4, "free", "p4", 4, measures={"flicker": 1.5}),
)


def report(*, vae: VAEReport | None = None) -> Report:
    return Report("tiny", "ab" * 32, "shapes", TINY.defaults, "int8", OUTCOMES, vae, ("CLIP score, no folder",), 12.34)


def vae() -> VAEReport:
    mean, share = Mean.of([30.0, 40.0]), Share(1, 2)
    given = GivenBack(mean, Mean.of([0.9, 1.0]), share, dict.fromkeys(("shape", "colour"), share))
    moves = Mean.of([0.001, 0.002])
    return VAEReport(one_object=given, two_objects=given, still=moves, resting=moves, seams={})


def test_groups_are_counted_apart() -> None:
    groups = report().groups
    assert list(groups) == ["one", "two", "free"]
    one = groups["one"]
    assert one.total == 2
    assert one.shares == {"all four": Share(1, 2), "shape": Share(1, 2), "colour": Share(2, 2)}
    assert one.confusion == {"shape": {"ring": {"none": 1, "ring": 1}}, "colour": {"red": {"red": 2}}}
    assert one.measures == {"first frame PSNR": Mean(25.0, 20.0, 30.0, 2)}
    assert groups["two"].confusion == {"shape": {"ring": {"star": 1}, "star": {"star": 1}}}
    assert groups["free"] == GroupReport(1, {}, {}, {"flicker": Mean(1.5, 1.5, 1.5, 1)})


def test_a_share_is_of_the_cases_that_have_the_mark() -> None:
    group = GroupReport.of([Outcome(1, "g", "p", 1, {"shape": True}), Outcome(2, "g", "p", 2)])
    assert (group.total, group.shares["all four"]) == (2, Share(1, 1))
    assert GroupReport.of([]) == GroupReport(0, {}, {}, {})


def test_json_holds_everything() -> None:
    text = json.dumps(report().to_json(), allow_nan=False)
    values = json.loads(text)
    assert list(values) == [
        *("format", "model", "weights", "suite", "settings", "quantize", "groups", "vae", "left_out"),
        *("seconds", "cases"),
    ]
    assert values["format"] == FORMAT
    assert values["groups"]["one"]["shares"]["shape"] == {
        "share": 0.5,
        "right": 1,
        "total": 2,
        "low": pytest.approx(0.0945, abs=1e-4),
        "high": pytest.approx(0.9055, abs=1e-4),
    }
    assert values["cases"][1]["words"]["shape"] == [["ring", None]]
    assert values["seconds"] == 12.3
    again = Report.from_json(values)
    assert json.dumps(again.to_json()) == text
    assert again.outcomes == OUTCOMES
    assert again.groups == report().groups


def test_a_report_with_a_vae_comes_back() -> None:
    values = json.loads(json.dumps(report(vae=vae()).to_json(), allow_nan=False))
    assert Report.from_json(values).vae == vae()


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"format": None},
        {"cases": 3},
        {"cases": [{"number": 1}]},
        {"settings": {"height": 1}},
        {"seconds": "long"},
        {"vae": {"one_object": {}}},
    ],
)
def test_what_is_no_report_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="evaluate the model again"):
        Report.from_json({**report().to_json(), **damage})


def test_the_table() -> None:
    lines = table(report(vae=vae())).splitlines()
    assert lines[0] == "tiny: suite shapes, 4 videos, 25 steps of ddim, guidance 3, int8"
    assert lines[1] == "one, 2 cases"
    assert lines[2] == "  all four             1 of 2 (50%, 95 % interval 9% to 91%)"
    assert lines[5] == "  first frame PSNR     25.00 on average (20.00 to 30.00)"
    assert lines[9:11] == ["free, 1 case", "  flicker              1.500 on average (1.500 to 1.500)"]
    assert lines[11] == "VAE, 2 unseen clips of each kind"
    assert lines[-1] == "left out: CLIP score, no folder"
