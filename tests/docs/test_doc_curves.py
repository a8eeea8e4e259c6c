"""The curves of the documentation: what is asked, counted, kept, drawn and said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import curve_results  # noqa: E402
import curve_tables  # noqa: E402
import curves  # noqa: E402
import strength  # noqa: E402
from results import Machine, Versions  # noqa: E402

from cogworks.config.variants import TINY  # noqa: E402
from cogworks.data.captions import parse_caption  # noqa: E402
from cogworks.data.shape_words import is_held_out  # noqa: E402
from cogworks.data.shapes import render_scene  # noqa: E402
from cogworks.evaluation.case import Outcome  # noqa: E402
from cogworks.evaluation.figures.metrics import MAX_PSNR  # noqa: E402
from cogworks.pipelines.generate import Pipeline  # noqa: E402

DEFAULTS = replace(TINY.defaults, steps=8, guidance_scale=3.0, sampler="ddim")


def a_curve(kind: curve_results.Kind, *points: curve_results.Point, weights: str = "a") -> curve_results.Curve:
    flags = {"avx2": True, "amx": False}
    return curve_results.Curve(
        kind=kind,
        command=f"python docs/curves.py {kind} tiny",
        model="tiny",
        weights=weights,
        samples=2,
        size=(64, 64, 17),
        threads=1,
        machine=Machine(cpu="acme", flags=flags, cores=2, memory=8),
        versions=Versions(python="3", torch="2", diffusers="0", cogworks="0", commit="f" * 40, changed=True),
        date=datetime(2026, 1, 2, tzinfo=UTC),
        points=points,
    )


def outcomes(group: str, marks: list[dict[str, bool]], measures: dict[str, float] | None = None) -> list[Outcome]:
    return [Outcome(n, group, "p", n, marks=each, measures=measures or {}) for n, each in enumerate(marks, start=1)]


def four(right: bool, shape: bool | None = None) -> dict[str, bool]:
    return {"shape": right if shape is None else shape, "colour": right, "motion": right, "background": right}


def a_point(kind: curve_results.Kind, value: float, right: bool = True, **others: float | str) -> curve_results.Point:
    at = curves.place_of(DEFAULTS, **({kind: value} | others))
    if kind == "strength":
        measures = {strength.TO_SOURCE: 20.0, strength.TO_WANTED: 25.0, strength.OVERLAP: 0.5}
        marks = [{strength.OBEYED: right, strength.KEPT: True}, {strength.OBEYED: True, strength.KEPT: False}]
        found = [outcome for group in strength.WORDS for outcome in outcomes(group, marks, measures)]
    else:
        found = outcomes("one object", [four(right), four(True)]) + outcomes("two objects", [four(right, shape=False)])
    groups = curves.groups_of(found, both=kind == "strength")
    return curve_results.Point(at=at, groups=groups, seconds=1.5, cpu_seconds=0.25)


@pytest.mark.parametrize(("kind", "count"), [("steps", 12), ("guidance", 5), ("strength", 9)])
def test_the_places_of_a_curve(kind: curve_results.Kind, count: int) -> None:
    """Each differs, only in what the curve is about; a strength that leaves no step is not asked for."""
    sweep = curves.SWEEPS[kind]
    places = sweep.places(DEFAULTS, sweep.values)
    assert len(places) == count
    assert len({tuple(sorted(place.items())) for place in places}) == count
    for place in places:
        changed = {name for name, value in curves.place_of(DEFAULTS).items() if place[name] != value}
        assert changed <= {kind, "sampler"} if kind == "steps" else changed <= {kind}
    if kind == "strength":
        assert [place["strength"] for place in places] == [n / 10 for n in range(2, 11)]  # of 8 steps


def test_numbers_are_parsed() -> None:
    asked = curves.parser().parse_args(["steps", "tiny", "--at", "5,8", "--samples", "3"])
    assert (asked.kind, asked.model, asked.at, asked.samples, asked.batch) == ("steps", "tiny", (5.0, 8.0), 3, 8)


def test_the_command_says_what_is_not_as_usual() -> None:
    usual = curves.SWEEPS["steps"].values
    assert curves.command_of("steps", "tiny", usual, 100) == "python docs/curves.py steps tiny"
    assert curves.command_of("steps", "tiny", (5, 8), 3) == "python docs/curves.py steps tiny --at 5,8 --samples 3"


def test_shares_are_counted_by_group() -> None:
    groups = a_point("steps", 8, right=False).groups
    assert {name: groups["one object"].shares[name].right for name in ("all four", "shape")} == {
        "all four": 1,
        "shape": 1,
    }
    assert (groups["two objects"].shares["all four"].right, groups["two objects"].shares["all four"].total) == (0, 1)
    rate = groups["one object"].shares["colour"]
    assert rate.low < rate.value == 0.5 < rate.high
    edited = a_point("strength", 0.5).groups["colour"]
    assert {name: rate.right for name, rate in edited.shares.items()} == {"obeyed": 2, "kept": 1, "both": 1}
    assert edited.means[strength.OVERLAP] == 0.5


def test_a_curve_survives_its_file(tmp_path: Path) -> None:
    curve = a_curve("steps", a_point("steps", 5), a_point("steps", 8))
    path = curve_results.curve_file("steps", "tiny", tmp_path)
    curve_results.write_curve(curve, path)
    assert path.name == "curve-steps-tiny.json"
    assert curve_results.read_curve(path) == curve


def test_points_of_other_weights_do_not_stand_beside_new_ones() -> None:
    curve = a_curve("steps")
    assert curve.goes_on_from(a_curve("steps", a_point("steps", 5)))
    for other in (
        a_curve("steps", weights="b"),
        a_curve("guidance"),
        curve.model_copy(update={"samples": 3}),
        curve.model_copy(update={"threads": 2}),
        curve.model_copy(update={"machine": curve.machine.model_copy(update={"cpu": "other"})}),
    ):
        assert not curve.goes_on_from(other)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The settings that were measured, instead of measuring them."""
    asked: list[object] = []

    def measure_point(_: Pipeline, kind: curve_results.Kind, at: curve_results.Place, *rest: object) -> object:
        asked.append(at[kind])
        return a_point(kind, float(at[kind]))

    monkeypatch.setattr(curves, "measure_point", measure_point)
    return asked


class _Model:
    """As much of a pipeline as has a name, defaults and weights."""

    def __init__(self) -> None:
        self.variant = replace(TINY, defaults=DEFAULTS)
        self.components = type("Components", (), {"folder": None})


def test_a_curve_goes_on_after_its_last_point(
    tmp_path: Path, counted: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "weights_hash", lambda folder: "a")
    path = tmp_path / "curve.json"

    def run(*values: float) -> list[object]:
        counted.clear()
        curve = curves.measure(_Model(), "guidance", path, values, samples=2, batch=8)
        assert [point.at["guidance"] for point in curve.points] == list(values)
        return counted.copy()

    assert run(1, 3) == [1, 3]
    assert run(1, 2, 3) == [2]
    assert run(1, 2, 3) == []
    monkeypatch.setattr(curves, "weights_hash", lambda folder: "b")
    assert run(1, 2, 3) == [1, 2, 3]  # the negative control


@pytest.mark.parametrize("kind", ["steps", "guidance", "strength"])
def test_a_curve_is_drawn_and_said(kind: curve_results.Kind, tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    curve = a_curve(kind, a_point(kind, 0.5, right=False), a_point(kind, 1))
    picture = curves.curve_pictures.draw(curve, tmp_path / "curve.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    curve_results.write_curve(curve, curve_results.curve_file(kind, "tiny", tmp_path))
    lines = curve_tables.table(f"{kind} tiny", tmp_path)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    text = "\n".join(lines)
    assert "acme (avx2, no amx), 1 thread" in text
    assert f"`python docs/curves.py {kind} tiny`, 2026-01-02" in text
    if kind == "strength":
        assert "| 0.5 | 50 % / 50 % |" in text
        assert "2 sources at each setting" in text
    else:
        assert f"| ddim | {0.5:g} | 50 % (9 to 91) | 50 % |" in text
        assert "2 prompts of one object and 1 prompts of two objects" in text


def test_what_was_not_measured_says_how(tmp_path: Path) -> None:
    assert "`python docs/curves.py steps tiny`" in curve_tables.table("steps tiny", tmp_path)[1]
    with pytest.raises(KeyError):
        curve_tables.table("hope tiny", tmp_path)


def test_an_edit_changes_one_thing_and_stays_in_what_training_shows() -> None:
    for number in range(1, 41):
        scene = strength.source_scene(number)
        edits = strength.edits_of(number)
        assert [edit.changed for edit in edits] == list(strength.WORDS)
        assert not scene.held_out
        before = _words(scene)
        for edit in edits:
            after = _words(edit.wanted)
            assert [name for name in before if before[name] != after[name]] == [edit.changed]
            assert not is_held_out(edit.wanted.objects[0].triple)
            facts = parse_caption(edit.case.prompt)
            assert (facts.objects[0].shape, facts.background) == (after["shape"], after["background"])
            assert edit.case.seed == number
    numbers = [edit.case.number for number in (1, 2, 3) for edit in strength.edits_of(number)]
    assert numbers == list(range(1, 13))


def _words(scene: strength.Scene) -> dict[str, str]:
    (item,) = scene.objects
    return {"colour": item.colour, "shape": item.shape, "motion": item.motion, "background": scene.background}


def test_the_judge_of_an_edit() -> None:
    """A video that shows what was asked for is right, the source is not, and one that changes more has not kept."""
    for number in (1, 2, 3):
        edits = strength.edits_of(number)
        source = render_scene(strength.source_scene(number), 64, 64, 17, 8)
        for edit, other in zip(edits, edits[1:] + edits[:1], strict=True):
            wanted = render_scene(edit.wanted, 64, 64, 17, 8)
            right = strength.judge_edit(edit, wanted, source, wanted)
            assert right.marks == {strength.OBEYED: True, strength.KEPT: True}
            assert right.measures[strength.TO_WANTED] == MAX_PSNR > right.measures[strength.TO_SOURCE]
            left = strength.judge_edit(edit, source, source, wanted)
            assert left.marks == {strength.OBEYED: False, strength.KEPT: True}
            assert left.measures[strength.TO_SOURCE] == MAX_PSNR
            assert left.measures[strength.OVERLAP] == 1
            wrong = strength.judge_edit(edit, render_scene(other.wanted, 64, 64, 17, 8), source, wanted)
            assert wrong.marks == {strength.OBEYED: False, strength.KEPT: False}


def test_the_mask_is_where_the_object_is() -> None:
    frames = np.full((3, 32, 32, 3), 100, np.uint8)
    assert not strength.object_mask(frames).any()
    frames[1, 10:14, 12:20] = (250, 20, 20)
    mask = strength.object_mask(frames)
    assert mask[1, 10:14, 12:20].all()
    assert mask.sum() == 32


@pytest.mark.slow
@pytest.mark.parametrize("words", [["steps", "--at", "2"], ["strength", "--at", "0.1"]], ids=lambda words: words[0])
def test_a_curve_from_beginning_to_end(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    kind, *rest = words
    curves.main([kind, "tiny", *rest, "--samples", "2", "--into", str(tmp_path)])
    curve = curve_results.read_curve(tmp_path / f"curve-{kind}-tiny.json")
    assert (tmp_path / f"{kind}-tiny.png").is_file()
    assert len(curve.points) == (len(curves.SAMPLERS) if kind == "steps" else 1)
    for point in curve.points:
        assert all(rate.total == 2 for group in point.groups.values() for rate in group.shares.values())
        assert point.cpu_seconds > 0
