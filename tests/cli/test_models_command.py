"""`cogworks models`: the table, and one model in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from cogworks.config.variants import VARIANTS

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_list_names_every_model(run: Run) -> None:
    ran = run("models", "list")
    header, *lines = ran.out.splitlines()
    assert ran.code == 0
    assert ran.err == ""
    assert header.split() == ["NAME", "FROM", "MAKES", "WEIGHTS"]
    assert [line.split()[0] for line in lines] == list(VARIANTS)
    assert lines[0].endswith("THUDM/CogVideoX-2b")
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
