"""Safetensors files: every published naming is found, damage names file and key, writing is all or nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogworks.errors import WeightsError
from cogworks.weights.files import (
    DIFFUSERS_STEM,
    find_weights,
    open_safetensors,
    open_weights,
    write_safetensors,
    write_weights,
)
from cogworks.weights.mapping import LazyTensor, Rule, State, convert, interleaved_rows, lazy_state, same
from cogworks.weights.storage import new_folder, read_json, replacing, write_json
from helpers.peak_memory import mapped_bytes

TENSORS = {name: torch.full((10,), float(i)) for i, name in enumerate("abcdefg")}


def _open(folder: Path, stem: str, file_variant: str | None = None) -> State:
    return open_weights(find_weights(folder, stem, file_variant))


def _read(state: State) -> dict[str, torch.Tensor]:
    return {key: tensor.read() for key, tensor in state.items()}


def _assert_is_tensors(state: State) -> None:
    assert set(state) == set(TENSORS)
    assert all(torch.equal(tensor, TENSORS[key]) for key, tensor in _read(state).items())


def test_one_file(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state(TENSORS))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    _assert_is_tensors(_open(tmp_path, "model"))
    _assert_is_tensors(lazy_state(load_file(tmp_path / "model.safetensors")))


def test_shards_are_bounded_and_complete(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state(TENSORS), shard_bytes=100)  # 40 bytes a tensor: two in a shard
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in shards] == [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert all(sum(t.nbytes for t in load_file(path).values()) <= 100 for path in shards)
    assert read_json(tmp_path / "model.safetensors.index.json")["metadata"] == {"total_size": 280}
    _assert_is_tensors(_open(tmp_path, "model"))


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state({"a": torch.ones(9), "b": torch.ones(1)}), shard_bytes=8)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_diffusers_reads_our_shards(tmp_path: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    from helpers.small_models import TRANSFORMER, perturb

    model = perturb(CogVideoXTransformer3DModel(**TRANSFORMER), 0)
    model.save_pretrained(tmp_path)
    state = _read(_open(tmp_path, DIFFUSERS_STEM))
    (tmp_path / f"{DIFFUSERS_STEM}.safetensors").unlink()
    write_weights(tmp_path, DIFFUSERS_STEM, lazy_state(state), shard_bytes=20_000)
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    read = CogVideoXTransformer3DModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_precision_in_the_name_as_diffusers_writes_it(tmp_path: Path, shard_size: str) -> None:
    from diffusers import CogVideoXTransformer3DModel

    from helpers.small_models import TRANSFORMER, perturb

    model = perturb(CogVideoXTransformer3DModel(**TRANSFORMER), 0).half()
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard_size)
    assert not (tmp_path / f"{DIFFUSERS_STEM}.safetensors").exists()
    read = _read(_open(tmp_path, DIFFUSERS_STEM, "fp16"))
    assert all(torch.equal(read[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"no weights: expected diffusion_pytorch_model\.safetensors .*fp16"):
        _open(tmp_path, DIFFUSERS_STEM)


def test_older_pickles_are_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    _assert_is_tensors(_open(tmp_path, "model"))


def test_older_pickles_in_shards_are_read(tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for name, keys in zip(names, ("abcd", "efg"), strict=True):
        torch.save({key: TENSORS[key] for key in keys}, tmp_path / name)
    weight_map = {key: names[key > "d"] for key in TENSORS}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    _assert_is_tensors(_open(tmp_path, "model"))
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        _open(tmp_path, "model")


def test_reading_is_lazy_and_mapped(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state(TENSORS))
    state = _open(tmp_path, "model")
    state["a"].read().fill_(9)
    _assert_is_tensors(_open(tmp_path, "model"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_what_is_read_to_make_another_tensor_of_does_not_stay_in_memory(tmp_path: Path) -> None:
    megabyte, path = 2**20, tmp_path / "model.safetensors"
    names = [f"{number}.{part}" for number in range(4) for part in ("q", "k", "v")]
    pieces = {name: torch.full((256, 1024), float(number)) for number, name in enumerate(names)}
    write_safetensors(path, lazy_state({**pieces, "kept": torch.ones(1024)}))
    rules = (
        Rule(("{number}.q", "{number}.k", "{number}.v"), ("{number}.qkv",), interleaved_rows(3)),
        same("kept", "kept"),
    )
    tensors = convert(open_safetensors(path), rules, origin="test")
    held = {name: tensor.read() for name, tensor in tensors.items()}
    assert held["kept"].eq(1).all()
    assert torch.equal(held["3.qkv"], torch.cat([pieces[f"3.{part}"] for part in ("q", "k", "v")]))
    assert mapped_bytes(path) < 6 * megabyte  # the last of them, and an eighth of the file
    del tensors
    assert mapped_bytes(path) < megabyte

    wide: list[torch.Tensor] = []
    for tensor in open_safetensors(path).values():
        wide.append(tensor.read_to_copy().double())
        assert mapped_bytes(path) < 6 * megabyte
    assert sum(tensor.nbytes for tensor in wide) > 24 * megabyte


def test_a_file_that_is_changed_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, lazy_state(TENSORS))
    state = open_safetensors(path)
    assert torch.equal(state["b"].read_to_copy(), TENSORS["b"])
    write_safetensors(path, lazy_state({name: -tensor for name, tensor in TENSORS.items()}))
    with pytest.raises(WeightsError, match=r"model\.safetensors was changed or removed while it was read"):
        _ = [tensor.read_to_copy() for tensor in state.values()]
    assert torch.equal(state["b"].read(), TENSORS["b"])


def test_missing_shard(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state(TENSORS), shard_bytes=100)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00004\.safetensors is missing"):
        _open(tmp_path, "model")


def test_index_that_promises_too_much(tmp_path: Path) -> None:
    write_weights(tmp_path, "model", lazy_state(TENSORS), shard_bytes=100)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["z"] = "model-00001-of-00004.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"model-00001-of-00004\.safetensors does not hold z"):
        _open(tmp_path, "model")


def test_index_that_points_elsewhere(tmp_path: Path) -> None:
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "../outside.safetensors"}})
    with pytest.raises(WeightsError, match="which is not beside it"):
        _open(tmp_path, "model")
    write_json(tmp_path / "model.safetensors.index.json", {"weights": {}})
    with pytest.raises(WeightsError, match="has no weight_map"):
        _open(tmp_path, "model")


@pytest.mark.parametrize("keep", [0, 5, 60, 300])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        _open(tmp_path, "model")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected model\.safetensors or model\.safetensors\.index\.json$"):
        _open(tmp_path, "model")
    with pytest.raises(WeightsError, match="does not exist"):
        open_safetensors(tmp_path / "model.safetensors")


def _write_half(path: Path, how: str) -> None:
    """Fail in the middle of writing a file or a folder."""
    with (replacing if how == "replacing" else new_folder)(path) as place:
        (place if how == "replacing" else place / "a").write_bytes(b"half")
        raise RuntimeError("late")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, lazy_state(TENSORS))
    before = path.read_bytes()

    def fail() -> torch.Tensor:
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_safetensors(path, {"a": LazyTensor(torch.Size((1,)), torch.float32, fail)})
    with pytest.raises(RuntimeError, match="late"):
        _write_half(path, "replacing")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="late"):
        _write_half(tmp_path / "out", "new_folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as place:
        (place / "a").write_text("whole")
    assert (tmp_path / "out" / "a").read_text() == "whole"
    with pytest.raises(WeightsError, match="exists and is not empty"), new_folder(tmp_path / "out"):
        pass


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [1, 2]})
    first = path.read_bytes()
    write_json(path, {"a": [1, 2], "b": 1})
    assert path.read_bytes() == first
    path.write_text("[1]")
    with pytest.raises(WeightsError, match="holds a list, expected an object"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(WeightsError, match="is not readable JSON"):
        read_json(path)
