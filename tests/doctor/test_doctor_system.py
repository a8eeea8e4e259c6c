"""`check_system`: what it says of this installation, and of one with something wrong."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from cogworks.doctor import hardware, self_test, system
from cogworks.doctor.findings import Finding, Report, in_bytes, kept, listed
from cogworks.doctor.system import check_encoders, check_libraries, check_places, check_system


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "cache"))


def of(findings: list[Finding], part: str) -> Finding:
    return next(finding for finding in findings if finding.part == part)


def test_this_installation_has_no_problem() -> None:
    report = check_system(self_test=False)
    assert report.num_problems == 0
    parts = {finding.part for finding in report.findings}
    assert parts >= {"versions", "libraries", "cpu", "dtype", "hub cache", "own cache", "settings", "video"}
    assert of(list(report.findings), "versions").values["torch"] == torch.__version__
    json.dumps(report.to_json())


def test_the_self_test() -> None:
    findings = self_test.run_self_test()
    assert [finding.severity for finding in findings] == ["ok"] * 3
    assert findings[0].values == self_test.SHOWS
    assert float(str(findings[1].values["psnr"])) > self_test.LEAST_FILE_PSNR


def test_the_negative_controls_of_the_self_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that shows something else, a file that comes back changed, a model that is not there."""
    from cogworks.video import Video

    grey = Video(np.full((17, 64, 64, 3), 128, np.uint8), 8)

    class Wrong:
        def generate(self, *_: object, **__: object) -> Video:
            return grey

    monkeypatch.setattr("cogworks.pipelines.load.load", lambda name: Wrong())
    monkeypatch.setattr("cogworks.video.read_video", lambda path: Video(grey.frames + np.uint8(40), 8))
    shows, written, _ = self_test.run_self_test()
    assert shows.severity == "problem"
    assert "shape None in place of circle" in shows.text
    assert written.severity == "problem"
    assert "less than the 28 dB it should have" in written.text
    monkeypatch.undo()
    monkeypatch.setattr("cogworks.weights.source.ASSETS", tmp_path)
    (missing,) = self_test.run_self_test()
    assert missing.text.startswith("The bundled model does not run: the bundled model tiny is missing")


def test_libraries_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=2.9", "av<20,>=15", "gone>=1", "lightning>=2; extra == 'train'", "ruff; extra == 'test'"]
    installed = {"torch": "2.8.1+cu128", "av": "20.0.0"}
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    monkeypatch.setattr(system, "_version", installed.get)
    found = [(finding.severity, finding.part, finding.text) for finding in check_libraries()]
    assert found == [
        ("ok", "libraries", "torch 2.8.1+cu128, av 20.0.0."),
        ("warning", "libraries", "torch is 2.8.1+cu128, and Cogworks needs >=2.9."),
        ("warning", "libraries", "av is 20.0.0, and Cogworks needs <20,>=15."),
        ("problem", "libraries", "gone is missing, which Cogworks needs."),
        ("note", "extra train", "lightning is not installed."),
    ]


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.9.0", ">=2.9", True),
        ("2.9", ">=2.9.0", True),
        ("2.13.0+cpu", ">=2.9", True),
        ("2.10.0a1", ">=2.9", True),
        ("2.8.9", ">=2.9", False),
        ("5.9", "<6,>=5.4", True),
        ("6.0.0", "<6,>=5.4", False),
        ("1.0", "", True),
    ],
)
def test_bounds(version: str, bounds: str, fits: bool) -> None:
    assert system._fits(version, bounds) is fits


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "cache" / "deep" / "a").write_bytes(bytes(1500))
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "cache" / "deep" / "a")
    (tmp_path / "cache" / "broken").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    findings = check_places()
    own = of(findings, "own cache")
    assert own.values["size"] == 1500  # what two names share is counted once
    assert own.text.startswith(f"{tmp_path / 'cache'} holds 1.5 kB; ")
    assert any(finding.text.startswith("HF_HUB_OFFLINE is set") for finding in findings)
    (tmp_path / "file").touch()
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "file" / "cache"))
    own = of(check_places(), "own cache")
    assert (own.severity, own.text) == ("warning", f"{tmp_path / 'file' / 'cache'} cannot be written to.")


def test_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGWORKS_PROMPT_CACHE")
    folder = tmp_path / "cache" / "prompts"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(bytes(2000))
    found = of(check_places(), "prompts")
    assert found.text == f"{folder} holds 2 kB of 256 MB for prompts that were read before."
    assert found.values == {"path": str(folder), "size": 2000, "room": 256 * 10**6}
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", "0")
    found = of(check_places(), "prompts")
    assert (found.severity, found.values["room"]) == ("note", 0)
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", "much")
    found = of(check_places(), "prompts")
    assert found.severity == "problem"
    assert "got 'much'" in found.text


def test_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.severity for finding in check_encoders()] == ["ok", "ok"]
    monkeypatch.setattr(system, "ENCODERS", {"libx264": ".mp4", "no-such-encoder": ".webm"})
    (fine, missing) = check_encoders()
    assert (fine.severity, missing.severity) == ("ok", "warning")
    assert missing.text == "PyAV has no no-such-encoder, so .webm cannot be written."


def test_dtypes_and_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(hardware, "devices", lambda: [cpu])
    for has_units in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_units=has_units: has_units)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        found = {f.values["published"]: f for f in hardware.check_devices() if f.part == "dtype"}
        assert found["bfloat16"].values["computed"] == ("bfloat16" if has_units else "float32")
        assert ("no units for bfloat16" in found["bfloat16"].text) is not has_units
        assert found["float16"].values["computed"] == found["float32"].values["computed"] == "float32"
    assert caplog.text == ""


def test_the_first_device_is_the_one_a_load_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.devices()[-1] == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert hardware.devices()[:2] == [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (14_000_000, "14 MB"),
        (123_456_789_000, "123 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_for_people(number: int, text: str) -> None:
    assert in_bytes(number) == text


def test_long_lists_are_cut_and_counted() -> None:
    names = [f"n{i}" for i in range(100)]
    assert listed(names) == "n0, n1, n2, n3, n4, n5 and 94 more"
    assert listed(names[:2]) == "n0, n1"
    assert kept(names)["count"] == 100
    assert len(kept(names)["names"]) == 50  # type: ignore[arg-type]


def test_a_report_counts() -> None:
    report = Report(
        "x", (Finding("ok", "a", "b."), Finding("problem", "a", "c.", "Do."), Finding("problem", "a", "d."))
    )
    assert report.num_problems == 2
    content = report.to_json()
    assert content["counts"] == {"ok": 1, "note": 0, "warning": 0, "problem": 2}
    assert content["findings"][1] == {"severity": "problem", "part": "a", "text": "c.", "advice": "Do."}  # type: ignore[index]
