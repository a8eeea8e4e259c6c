"""A folder that has parts in common with another one, `shared.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline

from cogworks.config.variants import TINY_I2V
from cogworks.doctor.model import check_model
from cogworks.errors import WeightsError
from cogworks.models.transformer import Transformer
from cogworks.weights.convert import convert_folder
from cogworks.weights.fingerprint import part_hash, weight_files, weights_hash
from cogworks.weights.load import load_components
from cogworks.weights.save import save_pretrained
from cogworks.weights.shared import SHARED_FILE, part_of
from cogworks.weights.source import ASSETS, open_folder

SHARED = ("vae", "text_encoder", "tokenizer")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`base` is the bundled model; `image` has a transformer of its own, and `whole` is `image` with all parts."""
    shutil.copytree(ASSETS / "tiny", tmp_path / "base")
    transformer = Transformer(TINY_I2V.transformer)
    transformer.initialise(torch.Generator().manual_seed(1))
    save_pretrained(tmp_path / "image", TINY_I2V, transformer=transformer)
    index = tmp_path / "image" / "model_index.json"
    index.write_text((ASSETS / "tiny/model_index.json").read_text().replace("XPipeline", "XImageToVideoPipeline"))
    shutil.copytree(tmp_path / "image", tmp_path / "whole")
    for part in SHARED:
        shutil.rmtree(tmp_path / "image" / part, ignore_errors=True)
        shutil.rmtree(tmp_path / "whole" / part, ignore_errors=True)
        shutil.copytree(ASSETS / "tiny" / part, tmp_path / "whole" / part)
    (tmp_path / "image" / SHARED_FILE).write_text(json.dumps({"parts_from": "../base"}))
    return tmp_path


def test_parts_that_are_not_here_are_those_of_the_other_folder(models: Path) -> None:
    shared, whole = (load_components(models / name) for name in ("image", "whole"))

    assert shared.variant == whole.variant
    assert shared.tokenizer.model_bytes == whole.tokenizer.model_bytes
    for ours, theirs in ((shared.vae, whole.vae), (shared.text_encoder, whole.text_encoder)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    assert part_of(models / "image", "transformer") == models / "image" / "transformer"


def test_its_weights_have_the_hash_of_the_whole_model(models: Path) -> None:
    shared, whole = (open_folder(models / name) for name in ("image", "whole"))

    assert weights_hash(shared) == weights_hash(whole)
    assert part_hash(shared, "vae") == part_hash(whole, "vae")
    assert len(weight_files(shared)) == len(weight_files(whole)) == 3

    vae = models / "base" / "vae" / "config.json"
    vae.write_text(vae.read_text() + "\n")
    assert weights_hash(shared) != weights_hash(whole)


def test_it_is_converted_to_a_folder_that_diffusers_reads(models: Path) -> None:
    convert_folder(models / "image", models / "converted", to="diffusers")

    theirs = CogVideoXImageToVideoPipeline.from_pretrained(models / "converted")
    assert theirs.transformer.config.in_channels == 2 * theirs.vae.config.latent_channels == 48
    assert not (models / "converted" / SHARED_FILE).exists()


def test_the_doctor_finds_nothing_missing(models: Path) -> None:
    findings = check_model(models / "image").findings

    assert [each for each in findings if each.severity == "problem"] == []


@pytest.mark.parametrize("content", ['{"parts_from": "../gone"}', '{"parts_from": 3}', "{}"])
def test_a_file_that_names_no_folder_is_refused(models: Path, content: str) -> None:
    (models / "image" / SHARED_FILE).write_text(content)

    with pytest.raises(WeightsError, match="must name under parts_from the folder that has the other parts"):
        load_components(models / "image")
