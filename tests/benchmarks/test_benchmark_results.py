"""Files of results: what they hold, that they appear whole or not at all, and which is the newest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fresh
import machine
import pytest
import results
import run
from measure import Equality, Settings, Unequal, make_case
from pydantic import ValidationError
from results import RESULTS, Case, Machine, Mark, Result, Versions, file_name, newest, read, write


def a_case(name: str = "a") -> Case:
    return make_case(name, "a thing", [1.0, 1.0], [2.0, 2.0], mark=Mark(at_least=1.5), equality=Equality(1e-6, 3, 1e-4))


def a_result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "kind": "vae",
        "date": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "quick": False,
        "seconds": 5.0,
        "threads": 2,
        "clock": "wall",
        "rounds": 5,
        "load": (0.1, 0.2),
        "machine": Machine(cpu="ACME(R) CPU 12", flags={"avx2": True, "amx": False}, cores=2, memory=2**30),
        "versions": Versions(
            python="3.11", torch="2.13", diffusers="0.42", cogworks="0.1", commit="0123456789abcdef", changed=False
        ),
        "cases": (a_case(),),
    }
    return Result(**{**values, **changes})


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    result = a_result()
    path = write(result, tmp_path)
    assert path.name == "speed-vae-2026-01-02-acme-cpu-12.json"
    assert read(path) == result
    assert result.case("a").met


def test_the_name_says_the_card_where_there_is_one() -> None:
    gpu = Machine(cpu="cpu", flags={}, cores=1, memory=1, gpu="NVIDIA H200, compute capability 9.0, 141 GiB")
    assert file_name(a_result(kind="gpu", machine=gpu)) == "speed-gpu-2026-01-02-nvidia-h200.json"


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC, 2 cores, AVX2", "amd-epyc-2-cores-avx2"),
        ("AMD EPYC, 2 cores, AVX512", "amd-epyc-2-cores-avx512"),
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz, 2 cores, AVX512", "intel-xeon-platinum-8259cl-avx512"),
    ],
)
def test_the_name_says_the_vector_units(cpu: str, name: str) -> None:
    machine = Machine(cpu=cpu, flags={}, cores=2, memory=1)
    assert file_name(a_result(machine=machine)) == f"speed-vae-2026-01-02-{name}.json"


def test_the_newest_is_the_one_measured_last(tmp_path: Path) -> None:
    assert newest("vae", tmp_path) is None
    for day in (3, 9, 5):
        write(a_result(date=datetime(2026, 1, day, tzinfo=UTC)), tmp_path)
    write(a_result(kind="training", date=datetime(2026, 2, 1, tzinfo=UTC)), tmp_path)
    found = newest("vae", tmp_path)
    assert found is not None
    assert found.date.day == 9


def test_quick_results_do_not_count(tmp_path: Path) -> None:
    assert write(a_result(quick=True), tmp_path).name.startswith("quick-vae-")
    assert newest("vae", tmp_path) is None


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(a_result(), tmp_path).read_bytes()

    def half(path: Path, text: str, **options: Any) -> int:
        with path.open("w") as file:
            file.write(text[:100])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        write(a_result(seconds=6.0), tmp_path)
    with pytest.raises(OSError, match="no space"):
        write(a_result(kind="dtype"), tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"met": False}, "met is False"),
        ({"theirs": None}, "has two sides"),
        ({"difference": 1e-3}, "differ by 0.001"),
        ({"unit": "parsec"}, "unit"),
        ({"unknown": 1}, "unknown"),
        ({"mark": {"at_least": 1.0, "at_most": 2.0}}, "at_least or at_most"),
    ],
)
def test_a_case_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Case.model_validate({**a_case().model_dump(), **change})


def test_a_result_has_cases() -> None:
    with pytest.raises(ValidationError, match="cases"):
        a_result(cases=())


def test_what_a_run_collects() -> None:
    def cases(settings: Settings) -> Iterator[Case]:
        yield a_case("first")
        yield a_case("second")

    result = run.collect("vae", Settings(rounds=1), cases)
    assert [case.name for case in result.cases] == ["first", "second"]
    assert result.machine.cores >= 1
    assert len(result.versions.commit) == 40 or result.versions.commit == "unknown"
    assert result.versions.diffusers.count(".") >= 2


def test_a_case_that_fails_leaves_no_result() -> None:
    def cases(settings: Settings) -> Iterator[Case]:
        yield a_case()
        raise Unequal("outputs differ")

    with pytest.raises(Unequal):
        run.collect("vae", Settings(rounds=1), cases)


def test_the_command_writes_a_file_for_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(module: str, function: str, arguments: dict[str, Any], **options: Any) -> Any:
        asked.append({**arguments, **options})
        if arguments["kind"] == "dtype":
            raise fresh.Failed("it ended")
        return a_result(kind=arguments["kind"], quick=arguments["quick"]).model_dump(mode="json")

    monkeypatch.setattr(fresh, "call", measured)
    words = ["--quick", "--threads", "1", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        run.app([*words, "--only", "vae", "--only", "dtype", "--only", "training"])
    assert ended.value.code == 1  # one of them failed
    assert sorted(path.name[:10] for path in tmp_path.iterdir()) == ["quick-trai", "quick-vae-"]
    assert capsys.readouterr().out.count(".json") == 2
    assert all(each["quick"] and each["rounds"] == 2 and each["MALLOC_MMAP_MAX_"] == "0" for each in asked)
    assert not any(each["compiles"] for each in asked)


def test_every_kind_has_its_module() -> None:
    for kind in (*run.KINDS, "gpu"):
        assert (run.fresh.HERE / f"bench_{kind}.py").is_file()


def test_flags_of_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f avx_vnni\nprocessor : 1\nflags\t\t: fpu\n")
    assert machine.cpu_flags(path) == {"avx2": True, "avx512": True, "vnni": True, "amx": False, "avx512_bf16": False}
    assert machine.cpu_flags(tmp_path / "none") == {}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("speed-*.json")), ids=lambda path: path.name)
def test_committed_results_are_results(path: Path) -> None:
    assert file_name(results.read(path)) == path.name
