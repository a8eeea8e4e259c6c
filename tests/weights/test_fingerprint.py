"""The hash of a model's weights: what it depends on, what it does not, and how often it reads."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from cogworks.config.places import cache_folder
from cogworks.errors import WeightsError
from cogworks.weights import fingerprint
from cogworks.weights.fingerprint import MEMORY, part_hash, weight_files, weights_hash
from cogworks.weights.source import ModelFolder, open_folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    read, names = fingerprint._read_and_hash, []

    def count(path: Path) -> str:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(fingerprint, "_read_and_hash", count)
    return names


def _model(folder: Path) -> ModelFolder:
    for part, name in (
        ("transformer", "diffusion_pytorch_model-00001-of-00002.safetensors"),
        ("transformer", "diffusion_pytorch_model-00002-of-00002.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
        ("vae", "diffusion_pytorch_model.fp16.safetensors"),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        save_file({name: torch.ones(3)}, folder / part / name)
        (folder / part / "config.json").write_text("{}")
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "spiece.model").write_bytes(b"pieces")
    (folder / "model_index.json").write_text("{}")
    return open_folder(folder)


def test_every_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    assert len(first) == 64
    assert len(reads) == 5 + 5  # weights with their index, and configuration with tokenizer
    assert not any("fp16" in name for name in reads)
    reads.clear()
    assert weights_hash(folder) == first
    assert reads == []


@pytest.mark.parametrize(
    "changed",
    [
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors",
        "vae/config.json",
        "tokenizer/spiece.model",
    ],
)
def test_a_changed_file_changes_the_hash(tmp_path: Path, reads: list[str], changed: str) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    reads.clear()
    path = folder.path / changed
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert weights_hash(folder) != first
    assert reads == [path.name]
    path.write_bytes(content)
    assert weights_hash(folder) == first


def test_what_a_load_does_not_read_makes_no_difference(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    (folder.path / "README.md").write_text("words")
    (folder.path / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert weights_hash(folder) == first


def test_the_name_of_the_folder_makes_no_difference_and_names_inside_do(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    folder.path.rename(tmp_path / "elsewhere")
    moved = open_folder(tmp_path / "elsewhere")
    assert weights_hash(moved) == first
    vae = moved.path / "vae"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.bin")
    (vae / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert weights_hash(moved) != first


def test_links_share_what_is_remembered_of_their_file(tmp_path: Path, reads: list[str]) -> None:
    """The hub's cache holds each file once, and a snapshot of links for every revision."""
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    reads.clear()
    shutil.copytree(folder.path, tmp_path / "revision", copy_function=lambda file, link: os.symlink(file, link))
    assert weights_hash(open_folder(tmp_path / "revision")) == first
    assert reads == []


def test_the_hubs_cache_names_files_by_their_hash(tmp_path: Path, reads: list[str]) -> None:
    model = _model(tmp_path / "model")
    plain = weights_hash(model)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in model.path.rglob("*.safetensors"):
        blob = path.rename(blobs / fingerprint._read_and_hash(path))
        path.symlink_to(blob)
    reads.clear()
    assert weights_hash(model) == plain
    assert not [name for name in reads if len(name) == 64]


def test_bundled_and_sat_folders(tmp_path: Path) -> None:
    from cogworks.weights.convert import convert_folder
    from cogworks.weights.source import resolve

    bundled = resolve("tiny")
    assert [path.parent.name for path in weight_files(bundled)] == ["transformer", "vae", "text_encoder"]
    convert_folder("tiny", tmp_path / "sat", "sat")
    folder = open_folder(tmp_path / "sat")
    names = [path.relative_to(folder.path).as_posix() for path in weight_files(folder)]
    assert names == ["transformer/1/mp_rank_00_model_states.pt", "vae/3d-vae.pt", "t5-v1_1-xxl/model.safetensors"]
    assert weights_hash(folder) == weights_hash(open_folder(folder.path / "transformer"))
    assert weights_hash(folder) != weights_hash(bundled)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_the_hash_of_a_part_depends_on_its_weights_alone(tmp_path: Path, part: Literal["vae", "text_encoder"]) -> None:
    folder, other = _model(tmp_path / "m"), _model(tmp_path / "other")
    before = part_hash(folder, part)
    assert part_hash(other, part) == before
    for file in weight_files(other):
        if file.parent.name != part and file.suffix == ".safetensors":
            file.write_bytes(b"other")
    assert part_hash(other, part) == before
    next(file for file in weight_files(other) if file.parent.name == part).write_bytes(b"other")
    assert part_hash(other, part) != before


def test_the_parts_of_a_sat_folder(tmp_path: Path) -> None:
    from cogworks.weights.convert import convert_folder

    convert_folder("tiny", tmp_path / "sat", "sat")
    folder = open_folder(tmp_path / "sat")
    before = part_hash(folder, "vae"), part_hash(folder, "text_encoder")
    assert len(set(before)) == 2
    (tmp_path / "sat" / "vae" / "3d-vae.pt").write_bytes(b"other")
    assert part_hash(folder, "vae") != before[0]
    assert part_hash(folder, "text_encoder") == before[1]


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    shutil.rmtree(folder.path / "vae")
    with pytest.raises(WeightsError, match="vae has no weights"):
        part_hash(folder, "vae")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"files": 3}',
        '{"files": {"a": 1}}',
        '{"files": {"a": {"sha256": "short"}}}',
        "[" * 99999,
    ],
)
def test_a_damaged_memory_is_replaced(tmp_path: Path, reads: list[str], content: str) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    (cache_folder() / MEMORY).write_text(content)
    assert weights_hash(folder) == first
    reads.clear()
    assert weights_hash(folder) == first
    assert reads == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _model(tmp_path / "m")
    first = weights_hash(folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "file" / "cache"))
    assert weights_hash(folder) == first


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _model(tmp_path / "m")
    read = fingerprint._read_and_hash

    def change(path: Path) -> str:
        digest = read(path)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return digest

    monkeypatch.setattr(fingerprint, "_read_and_hash", change)
    weights_hash(folder)
    monkeypatch.setattr(fingerprint, "_read_and_hash", read)
    reads.clear()
    weights_hash(folder)
    assert len(reads) == 10


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    first, second = _model(tmp_path / "first"), _model(tmp_path / "second")
    weights_hash(first)
    shutil.rmtree(first.path)
    weights_hash(second)
    remembered = json.loads((cache_folder() / MEMORY).read_text())["files"]
    assert all(Path(path).is_relative_to(tmp_path / "second") for path in remembered)


def test_writers_at_the_same_time_leave_a_whole_file(tmp_path: Path) -> None:
    folders = [_model(tmp_path / str(i)) for i in range(4)]
    threads = [threading.Thread(target=weights_hash, args=(folder,)) for folder in folders for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((cache_folder() / MEMORY).read_text())["files"]
    assert [path.name for path in cache_folder().iterdir()] == [MEMORY]
    assert len({weights_hash(folder) for folder in folders}) == 1


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    (folder.path / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"00002-of-00002\.safetensors is missing: .* lists it"):
        weights_hash(folder)
