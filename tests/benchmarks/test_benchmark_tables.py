"""Tables of speed: from the newest results, and as committed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from measure import make_case
from results import Machine, Mark, newest, write
from test_benchmark_results import a_result

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import refresh  # noqa: E402
import speed_tables  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fast = make_case("fast", "a decode", [0.05, 0.06], [0.1, 0.12], mark=Mark(at_least=1.5), notes={"seconds": 3.25})
    large = make_case(
        "large",
        "a peak",
        [3e8],
        [4e8],
        unit="B",
        figure="ours / theirs",
        mark=Mark(at_most=0.6),
        allocator="default",
    )
    alone = make_case("alone", "a command", [7.0, 7.5, 9.0], figure="ours", rival="", mark=Mark(at_most=8.0))
    write(a_result(cases=(fast, large)), tmp_path)
    write(a_result(kind="startup", cases=(alone, make_case("free", "no goal", [1.0], [2.0]))), tmp_path)
    return tmp_path


def test_the_table_of_a_kind(folder: Path) -> None:
    lines = speed_tables.table("vae", folder)
    assert lines[3].startswith("| a decode | diffusers | 0.11 s |") or "| 110 ms |" in lines[3]
    assert "2.00x as fast" in lines[3]
    assert "at least 1.5: met" in lines[3]
    assert "seconds: 3.25" in lines[3]
    assert "| 400 MB | 300 MB | 0.75 of it | at most 0.6: **not met** |" in lines[4]
    assert "avx2, no amx" in lines[-1]
    assert "(../benchmarks/results/speed-vae-2026-01-02-acme-cpu-12.json)" in lines[-1]


def test_the_summary_has_its_cases_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tables, "_IN_SUMMARY", {"vae": ("fast", "large"), "startup": ("alone",)})
    lines = speed_tables.table("summary", folder)
    rows = [line for line in lines if line.startswith("| a ")]
    assert len(rows) == 3
    assert not any("no goal" in line for line in lines)
    assert rows[-1].endswith("| 7.50 s (7.00 s to 9.00 s) |")
    assert sum(line.startswith("Measured on 2026-01-02") for line in lines) == 1  # both were measured alike


def test_the_summary_has_a_column_for_each_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_tables, "_IN_SUMMARY", {"vae": ("fast", "large")})
    case = make_case("fast", "a decode", [0.01], [0.05])
    machine = Machine(cpu="ACME CPU 13", flags={}, cores=2, memory=2**30)
    write(a_result(cases=(case,), machine=machine, date=datetime(2026, 5, 5, tzinfo=UTC)), folder)
    head, _, fast, large = (line for line in speed_tables.table("summary", folder) if line.startswith("|"))
    assert head == "| what | beside | ACME CPU 13 | ACME(R) CPU 12 |"
    assert fast == ("| a decode | diffusers | 5.00x as fast: 10.0 ms for 50.0 ms | 2.00x as fast: 55.0 ms for 110 ms |")
    assert large == "| a peak | diffusers |  | 0.75 of it: 300 MB for 400 MB |"


def test_a_newer_result_replaces_the_table(folder: Path) -> None:
    newer = make_case("newer", "another decode", [1.0], [2.0])
    write(a_result(cases=(newer,), date=datetime(2026, 5, 5, tzinfo=UTC)), folder)
    text = "\n".join(speed_tables.table("vae", folder))
    assert "another decode" in text
    assert "a peak" not in text


def test_each_machine_has_its_table(folder: Path) -> None:
    other = Machine(cpu="ACME CPU 13, 2 cores, AVX512", flags={"avx2": True}, cores=2, memory=2**30)
    case = make_case("other", "the same elsewhere", [1.0], [2.0])
    write(a_result(cases=(case,), machine=other, date=datetime(2026, 5, 5, tzinfo=UTC)), folder)
    text = "\n".join(speed_tables.table("vae", folder))
    assert text.index("the same elsewhere") < text.index("a peak")  # the newest first
    assert text.count("| what |") == text.count("Measured on") == 2
    assert "no goal" in "\n".join(speed_tables.table("startup", folder))


def test_the_summary_of_committed_results_knows_its_cases() -> None:
    for kind, names in speed_tables._IN_SUMMARY.items():
        result = newest(kind)
        known = names if result is None else [case.name for case in result.cases]
        assert set(names) <= set(known), kind


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    assert "--only gpu" in speed_tables.table("gpu", tmp_path)[-1]
    assert speed_tables.table("summary", tmp_path)[-1].startswith("Not measured yet")
    with pytest.raises(KeyError, match="no kind of result is named 'speed'"):
        speed_tables.table("speed", tmp_path)


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_committed_pages_show_the_newest_results(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- speed: " in text
    assert refresh.with_tables(text) == text, f"run python docs/refresh.py {page}"


def test_a_page_that_is_behind_is_found(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The negative control: other results give another page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(refresh.speed_tables, "table", lambda name: speed_tables._summary([a_result()]))
    assert refresh.with_tables(text) != text
