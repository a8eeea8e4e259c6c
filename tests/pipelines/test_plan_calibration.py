"""Calibration: measured once, remembered by device, dtype and version, and never in the way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from cogworks.config.units import format_memory, parse_memory
from cogworks.errors import RequestError
from cogworks.pipelines.planning import calibration
from cogworks.pipelines.planning.calibration import Rates, calibrate, remembered_rates
from cogworks.pipelines.planning.meter import Work

CPU = torch.device("cpu")
RATES = Rates(1.0, 2.0, 3.0, 4.0, 5.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path))
    return tmp_path / "calibration.json"


def test_it_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(calibration, "_measure", lambda device, dtype: asked.append(dtype) or RATES)
    assert remembered_rates(CPU, torch.float32) is None
    assert calibrate(CPU, torch.float32) == calibrate(CPU, torch.float32) == RATES
    assert remembered_rates(CPU, torch.float32) == RATES
    assert remembered_rates(CPU, torch.bfloat16) is None
    calibrate(CPU, torch.bfloat16)
    assert asked == [torch.float32, torch.bfloat16]
    (first, second) = sorted(json.loads(cache.read_text()))
    assert "bfloat16" in first
    assert str(torch.__version__) in second
    assert [path.name for path in cache.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"KEY": 3}', '{"KEY": {"matmul": 1}}', "\udcff"])
def test_a_broken_file_is_ignored_and_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    key = calibration._key(CPU, torch.float32)
    cache.write_bytes(content.replace("KEY", key).encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(calibration, "_measure", lambda device, dtype: RATES)
    assert remembered_rates(CPU, torch.float32) is None
    assert calibrate(CPU, torch.float32) == RATES
    assert remembered_rates(CPU, torch.float32) == RATES


def test_rates_that_are_no_speeds_are_not_used(cache: Path) -> None:
    key = calibration._key(CPU, torch.float32)
    values = {"matmul": 0, "attention": 1, "convolution": 1, "bandwidth": 1, "overhead": 1}
    cache.write_text(json.dumps({key: values}))
    assert remembered_rates(CPU, torch.float32) is None


def test_a_folder_that_cannot_be_written_does_not_matter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.joinpath("file").write_text("")
    monkeypatch.setenv("COGWORKS_CACHE", str(cache.parent / "file" / "below"))
    monkeypatch.setattr(calibration, "_measure", lambda device, dtype: RATES)
    assert calibrate(CPU, torch.float32) == RATES


def test_a_real_calibration_is_short_and_sensible() -> None:
    begun = time.process_time()
    rates = calibrate(CPU, torch.float32)
    assert time.process_time() - begun < 2
    assert 1e8 < rates.convolution < 1e15
    assert 1e8 < rates.matmul < 1e15
    assert 1e8 < rates.attention < 1e15
    assert 1e7 < rates.bandwidth < 1e14
    assert 1e-8 < rates.overhead < 1e-2


def test_seconds_are_the_sum_over_kinds() -> None:
    work = Work(matmul=10, attention=20, convolution=30, moved=40, operations=5)
    assert RATES.seconds(work) == 10 / 1 + 20 / 2 + 30 / 3 + 40 / 4 + 5 * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("7.5 gb", 7_500_000_000),
        ("512MB", 512 * 10**6),
        ("16G", 16 * 10**9),
        ("1000", 1000),
        (1000, 1000),
    ],
)
def test_amounts_of_memory(text: str | int, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    "text", ["", "much", "-8GB", "8 GBB", "0", "0.1B", "8,5GB", "nan", "inf", True, "٨GB", "9" * 400]
)
def test_other_words_are_refused(text: object) -> None:
    with pytest.raises(RequestError, match="8GB"):
        parse_memory(text)  # type: ignore[arg-type]


def test_amounts_for_people() -> None:
    assert [format_memory(amount) for amount in (12, 1500, 7.5e9, 12e6)] == ["12 B", "1.5 KB", "7.5 GB", "12.0 MB"]
