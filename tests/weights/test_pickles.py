"""The restricted unpickler: tensors come out, nothing is executed, damage is a clear error."""

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogworks.errors import WeightsError
from cogworks.weights.pickles import read_pickle, read_tensors

FORMATS = pytest.mark.parametrize("archive", [True, False], ids=["zip", "stream"])
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 4, 5])


class Harmful:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    return {
        "plain": base,
        "transposed": base.t(),
        "part": base[2:4, 1:],
        "half": torch.randn(5, generator=generator).half(),
        "bfloat16": torch.randn(3, 3, generator=generator).bfloat16(),
        "integers": torch.arange(7),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
    }


def _save(content: object, path: Path, *, archive: bool = True, protocol: int = 2) -> None:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)


@FORMATS
@PROTOCOLS
def test_tensors_come_out_bit_for_bit(tmp_path: Path, archive: bool, protocol: int) -> None:
    path, tensors = tmp_path / "a.pt", _tensors()
    _save({"module": OrderedDict(tensors), "iteration": 3}, path, archive=archive, protocol=protocol)
    read = read_tensors(path, "module")
    assert list(read) == list(tensors)
    for key, tensor in tensors.items():
        assert (read[key].shape, read[key].dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(read[key].read(), tensor), key


@FORMATS
@PROTOCOLS
def test_nothing_is_executed(tmp_path: Path, archive: bool, protocol: int) -> None:
    harm = tmp_path / "harm"
    command = f"{'' if os.name == 'nt' else 'touch '}{harm}"
    content = {"module": {"weight": torch.ones(3)}, "hook": Harmful(command)}
    _save(content, tmp_path / "a.pt", archive=archive, protocol=protocol)
    assert torch.equal(read_tensors(tmp_path / "a.pt", "module")["weight"].read(), torch.ones(3))
    assert not harm.exists()
    assert f"{os.system.__module__}.system" in read_pickle(tmp_path / "a.pt").dropped
    torch.load(tmp_path / "a.pt", weights_only=False)  # negative control: the file is harmful indeed
    assert harm.exists()


@FORMATS
@PROTOCOLS
def test_other_objects_are_listed_and_dropped(tmp_path: Path, archive: bool, protocol: int) -> None:
    others = {
        "args": argparse.Namespace(load="x", sizes=[1, 2]),
        "numpy_state": np.random.default_rng(0).bit_generator.state | {"legacy": np.random.RandomState(0).get_state()},
        "numpy": np.arange(3.0),
        "torch_state": torch.get_rng_state(),
        "path": Path("/a/b"),
        "plain": {"set": {1, 2}, "complex": 1j, "slice": slice(1, 2), "bytes": b"x", "none": None, "list": [1, "a"]},
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "network": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU()),
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    }
    _save({"module": _tensors(), **others}, tmp_path / "a.pt", archive=archive, protocol=protocol)
    pickled = read_pickle(tmp_path / "a.pt")
    assert {"argparse.Namespace", "torch.nn.modules.container.Sequential", "torch.device"} <= set(pickled.dropped)
    assert set(read_tensors(tmp_path / "a.pt", "module")) == set(_tensors())


def test_values_that_are_no_tensors_are_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save({"a": torch.ones(1), "note": "x", "args": argparse.Namespace(b=1)}, tmp_path / "a.pt")
    with caplog.at_level("INFO"):
        assert list(read_tensors(tmp_path / "a.pt")) == ["a"]
    assert "argparse.Namespace" in caplog.text
    assert "note, args" in caplog.text


def test_a_tensor_is_read_from_the_mapped_file(tmp_path: Path) -> None:
    """Writing to what was read changes neither the file nor a second reading of it."""
    _save({"a": torch.ones(4)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    read_tensors(tmp_path / "a.pt")["a"].read().zero_()
    assert (tmp_path / "a.pt").read_bytes() == before
    assert read_tensors(tmp_path / "a.pt")["a"].read().sum() == 4


@FORMATS
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6, 0.99])
def test_truncated_files_are_a_clear_error(tmp_path: Path, archive: bool, fraction: float) -> None:
    path = tmp_path / "a.pt"
    _save({"module": {"weight": torch.ones(4000)}}, path, archive=archive)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(WeightsError, match=r"a\.pt is damaged"):
        read_tensors(path, "module")


def test_what_is_no_state_dict_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(WeightsError, match="does not exist"):
        read_tensors(path)
    _save({"other": {}}, path)
    with pytest.raises(WeightsError, match=r"has no entry 'module' \(it holds other\)"):
        read_tensors(path, "module")
    _save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"holds a pickled torch.nn.modules.linear.Linear"):
        read_tensors(path)
    _save({"module": {}}, path)
    with pytest.raises(WeightsError, match="holds no tensors under module"):
        read_tensors(path, "module")
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match=r"is damaged or not a file of torch.save"):
        read_tensors(path)


def test_a_tensor_beyond_its_storage_is_a_clear_error(tmp_path: Path) -> None:
    """A hostile file could describe a view outside of the file."""

    class Beyond:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, 1, (4,), (1,), False, OrderedDict())

    _save({"a": Beyond()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="reaches beyond its data"):
        read_tensors(tmp_path / "a.pt")


_whole_files: dict[bool, bytes] = {}


def _whole_file(path: Path, archive: bool) -> bytes:
    """Written once: torch's old format holds addresses, and so has another length every time."""
    if archive not in _whole_files:
        _save({"module": {"weight": torch.ones(2), "args": argparse.Namespace(a=1)}}, path, archive=archive)
        _whole_files[archive] = path.read_bytes()
    return _whole_files[archive]


def test_a_memo_that_would_take_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = _whole_file(path, archive=False)
    first = content.index(b"q\x00")  # BINPUT 0, in the pickle that names the format or the one after
    path.write_bytes(content[:first] + b"r\xff\xff\xff\x7f" + content[first + 2 :])
    with pytest.raises(WeightsError, match="numbers an object 2147483647"):
        read_tensors(path, "module")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), archive=st.booleans())
def test_flipped_bytes_never_do_more_than_raise(
    tmp_path_factory: pytest.TempPathFactory, data: Any, archive: bool
) -> None:
    """Whatever is in the file: a result or a WeightsError, nothing else."""
    path = tmp_path_factory.mktemp("flipped") / "a.pt"
    content = bytearray(_whole_file(path, archive))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        for tensor in read_tensors(path, "module").values():
            tensor.read()
    except WeightsError:
        pass
