"""The arithmetic of benchmarks: order, ratios, equality, peaks, processes. Nothing here is timed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fresh
import measure
import pytest
import torch
from measure import KEEPING, Settings, Unequal, alternate, check_equal, check_near, make_case, peak_of, ratio_of, series
from results import Mark


def test_rounds_are_a_b_b_a_after_warm_ups() -> None:
    called: list[str] = []
    times = alternate(
        lambda: called.append("ours"), lambda: called.append("theirs"), rounds=2, clock="process", warm_ups=1
    )
    assert called == ["theirs", "ours"] + ["ours", "theirs", "theirs", "ours"] * 2
    assert len(times.ours) == len(times.theirs) == 4


def test_a_round_is_both_calls_of_a_side() -> None:
    ratio = ratio_of([2.0, 4.0, 8.0, 8.0, 3.0, 3.0], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 1.0, 4.0)
    assert ratio.of_lowest == 2.0


def test_single_values_are_a_round_each() -> None:
    ratio = ratio_of([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 2.0, 4.0)


def test_a_series_keeps_what_was_measured() -> None:
    found = series([3.0, 1.0, 2.0])
    assert (found.median, found.lowest, found.values) == (2.0, 1.0, (3.0, 1.0, 2.0))


def test_a_steady_drift_changes_no_ratio() -> None:
    """What A B B A is for: each call takes longer than the one before, and both sides the same."""
    now = iter(range(1, 100))
    drifting = [float(next(now)) for _ in range(8)]
    ours = [value for value, side in zip(drifting, "ABBAABBA", strict=True) if side == "A"]
    theirs = [value for value, side in zip(drifting, "ABBAABBA", strict=True) if side == "B"]
    assert ratio_of(theirs, ours).low == ratio_of(theirs, ours).high == 1.0


def test_equal_outputs_pass_and_others_are_refused() -> None:
    theirs = torch.tensor([1.0, -3.0])
    found = check_equal(theirs + 5e-5, theirs)
    assert found.difference == pytest.approx(5e-5, rel=1e-2)
    assert found.largest == 3.0
    with pytest.raises(Unequal, match=r"differ by 0\.0002"):
        check_equal(theirs + 2e-4, theirs)
    with pytest.raises(Unequal, match="differ by nan"):
        check_equal(torch.tensor([1.0, torch.nan]), theirs)
    with pytest.raises(Unequal, match="shapes"):
        check_equal(theirs[:1], theirs)


def test_rounded_outputs_pass_and_others_are_refused() -> None:
    theirs = torch.linspace(-3, 3, 1000)
    found = check_near(theirs.bfloat16(), theirs, 0.01)
    assert 0 < found.difference < 0.005
    with pytest.raises(Unequal, match=r"differ by 0\.02"):
        check_near(1.02 * theirs, theirs, 0.01)
    with pytest.raises(Unequal, match="shapes"):
        check_near(theirs[:1], theirs, 0.01)


@pytest.mark.parametrize(
    ("figure", "mark", "ratio", "met"),
    [
        ("theirs / ours", Mark(at_least=2.0), 2.0, True),
        ("theirs / ours", Mark(at_least=2.1), 2.0, False),
        ("ours / theirs", Mark(at_most=0.5), 0.5, True),
        ("ours / theirs", Mark(at_most=0.4), 0.5, False),
        ("theirs / ours", None, 2.0, None),
    ],
)
def test_a_mark_is_met_or_not(figure: str, mark: Mark | None, ratio: float, met: bool | None) -> None:
    case = make_case("name", "what", [1.0, 1.0], [2.0, 2.0], figure=figure, mark=mark)  # type: ignore[arg-type]
    assert case.ratio.median == ratio
    assert case.met is met


def test_a_figure_of_ours_alone() -> None:
    case = make_case("name", "what", [7.0, 9.0], figure="ours", rival="", mark=Mark(at_most=8.0))
    assert (case.ratio.median, case.ratio.low, case.ratio.high, case.met) == (8.0, 7.0, 9.0, True)


def test_one_thread_is_measured_by_the_time_of_the_process() -> None:
    assert Settings(threads=1).clock == "process"
    assert Settings(threads=2).clock == "wall"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_a_peak_is_what_the_call_needs() -> None:
    size = 64 * 2**20
    peak = peak_of(lambda: bytes(bytearray(b"x") * size), lambda: None)
    assert size <= peak < 3 * size
    assert peak_of(lambda: None, lambda: bytes(bytearray(b"x") * size)) < size / 2


def test_both_sides_have_the_same_allocator_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEEPING:
        monkeypatch.delenv(name, raising=False)
    assert measure.allocator_here() == "default"
    for name, value in KEEPING.items():
        monkeypatch.setenv(name, value)
    assert "MALLOC_MMAP_MAX_=0" in make_case("name", "what", [1.0], [1.0]).allocator


def test_work_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert fresh.call("os", "getenv", {"key": "MALLOC_MMAP_MAX_"}, threads=1) is None
    assert fresh.call("os", "getenv", {"key": "OMP_NUM_THREADS"}, threads=3) == "3"
    assert fresh.call("os", "getenv", {"key": "GIVEN"}, threads=1, GIVEN="yes") == "yes"
    assert fresh.call("os", "getpid", {}, threads=1) != os.getpid()


def test_a_process_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(fresh.Failed, match="status 1"):
        fresh.call("os", "getenv", {"no": "such argument"}, threads=1)
    assert "TypeError" in capfd.readouterr().err
    with pytest.raises(fresh.Failed, match="status 3"):
        fresh.spend([sys.executable, "-c", "import sys; sys.exit('why') if 0 else sys.exit(3)"], threads=1, quiet=True)


def test_what_a_process_spent() -> None:
    spent = fresh.spend([sys.executable, "-c", "sum(range(10**6))"], threads=1)
    assert spent.cpu > 0
    assert spent.wall > 0
