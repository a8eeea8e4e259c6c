"""`cogworks models`: the table, and one model in full."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogworks.config.variants import VARIANTS
from cogworks.weights.source import ASSETS

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, which cannot be reached; and one of our own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "own"))
    return tmp_path / "hub"


def put_into(cache: Path, hub_id: str, **files: bytes) -> Path:
    """A snapshot as the hub's cache holds it."""
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    for name, content in files.items():
        path = snapshot / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_list_names_every_model(run: Run) -> None:
    ran = run("models", "list")
    header, *lines = ran.out.splitlines()
    assert ran.code == 0
    assert ran.err == ""
    assert header.split() == ["NAME", "FROM", "MAKES", "WEIGHTS", "HERE"]
    assert [line.split()[0] for line in lines] == list(VARIANTS)
    assert re.search(r"THUDM/CogVideoX-2b +no$", lines[0])
    assert re.search(r"bundled +\d+(\.\d+)? MB$", lines[-1])
    assert "49 frames of 720x480, 8 a second" in lines[0]


def test_list_as_json(run: Run) -> None:
    models = json.loads(run("models", "list", "--json").out)["models"]
    assert {row["name"]: row["input"] for row in models} == {
        name: "text and image" if variant.takes_image else "text" for name, variant in VARIANTS.items()
    }


def test_show_a_published_model_without_its_files(run: Run) -> None:
    ran = run("models", "show", "cogvideox-2b")
    found = yaml.safe_load(ran.out)
    assert ran.code == 0
    assert found["files"] == "not downloaded"
    # The counts of the published checkpoints.
    assert found["parameters"] == {"transformer": 1_693_783_872, "vae": 215_583_907, "text_encoder": 4_762_310_656}
    assert found["transformer"]["patch_size"] == [1, 2, 2]
    assert found["defaults"]["steps"] == 50
    assert yaml.safe_load(run("models", "show", "THUDM/CogVideoX-2b").out) == found


def test_show_a_folder(run: Run, model: str) -> None:
    found = json.loads(run("models", "show", model, "--json").out)
    assert found["name"] == "random"
    assert found["files"] == model
    assert found["defaults"]["num_frames"] == 9


def test_an_unknown_name_is_an_error_with_a_hint(run: Run) -> None:
    ran = run("models", "show", "cogvideox-2")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean cogvideox-2b?" in ran.err


def test_list_knows_what_was_downloaded(run: Run, cache: Path) -> None:
    snapshot = put_into(cache, "THUDM/CogVideoX-2b", model_index_json=b"{}", vae__weights=bytes(1_498))
    (cache / "models--THUDM--CogVideoX-5b" / "blobs").mkdir(parents=True)
    (cache / "models--THUDM--CogVideoX-5b" / "blobs" / "x").write_bytes(bytes(20))
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").out)["models"]}
    here = {name: (row["here"], row["path"], row["size"]) for name, row in rows.items()}
    assert here["cogvideox-2b"] == ("1.5 kB", str(snapshot), 1_500)
    assert here["cogvideox-5b"] == ("in part, 20 bytes", None, 20)
    assert here["cogvideox-5b-i2v"] == ("no", None, 0)
    assert here["tiny"][1] == str(ASSETS / "tiny")


def test_where(run: Run, cache: Path) -> None:
    put_into(cache, "THUDM/CogVideoX-2b", model_index_json=b"{}")
    lines = [re.split(" {2,}", line) for line in run("models", "where").out.splitlines()]
    assert [(what, path) for what, _, path in lines] == [
        ("bundled models", str(ASSETS)),
        ("hub cache", str(cache)),
        ("cache of Cogworks", str(cache.parent / "own")),
    ]
    places = json.loads(run("models", "where", "--json").out)["places"]
    assert [row["size"] > 0 for row in places] == [True, True, False]
    assert json.loads(run("models", "where", "tiny", "--json").out)["places"][0]["path"] == str(ASSETS / "tiny")
    assert run("models", "where", "cogvideox-2b").out.strip().endswith("0" * 40)


def test_where_of_what_is_not_here(run: Run) -> None:
    ran = run("models", "where", "cogvideox-5b")
    assert (ran.code, ran.out) == (2, "")
    assert "cogvideox-5b is not on this machine: cogworks models download cogvideox-5b" in ran.err


def test_download_of_what_is_bundled(run: Run) -> None:
    ran = run("models", "download", "tiny")
    assert (ran.code, ran.out) == (0, f"{ASSETS / 'tiny'}\n")
    assert ran.err == "tiny is here already: it came with Cogworks\n"
    assert run("models", "download", "tiny", "--json").code == 0


def test_download(run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"transformer__diffusion_pytorch_model.safetensors": b"x"}
    asked = []

    def download(hub_id: str, **options: Any) -> str:
        asked.append((hub_id, options["revision"], options["local_files_only"]))
        if options["local_files_only"]:
            raise FileNotFoundError
        return str(snapshot)

    snapshot = put_into(cache, "org/model", model_index_json=b'{"_class_name": "CogVideoXPipeline"}', **weights)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("cogworks.weights.hub.fetch_large", lambda *names, **options: None)
    ran = run("models", "download", "org/model", "--revision", "v1", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"name": "org/model", "path": str(snapshot), "size": 36 + 1})
    assert "fetching org/model at revision v1 from the hub into " in ran.err
    assert asked[-1] == ("org/model", "v1", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./there"], "./there is on this machine already: only models of the hub are downloaded"),
        (["cogvideox5b"], "there is no model or folder called cogvideox5b; did you mean cogvideox-5b?"),
        (["THUDM/CogVideoX-5B"], "the hub is switched off (HF_HUB_OFFLINE)"),
        (["THUDM/CogVideoX-5B"], "Did you mean THUDM/CogVideoX-5b?"),
    ],
)
def test_what_cannot_be_downloaded(run: Run, words: list[str], message: str) -> None:
    Path("there").mkdir()
    ran = run("models", "download", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err
