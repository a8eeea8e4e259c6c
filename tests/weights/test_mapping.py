"""The rule tables themselves: transforms are inverse pairs, and `convert` proves completeness before it reads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogworks.errors import WeightsError
from cogworks.weights.mapping import (
    LazyTensor,
    Rule,
    convert,
    drop,
    flattened_columns,
    interleaved_rows,
    lazy_state,
    reverse,
    same,
)

RULES = (
    Rule(tuple(f"layers.{{i}}.{name}.{{p}}" for name in "qkv"), ("blocks.{i}.qkv.{p}",), interleaved_rows(3)),
    same("layers.{i}.qkv.{p}", "blocks.{i}.qkv.{p}", alias=True),
    same("head.{p}", "out.{p}"),
    drop("cache.{any}"),
)
OURS = {"blocks.0.qkv.weight": (6, 3), "blocks.1.qkv.weight": (6, 3), "out.weight": (4, 2)}


def _file() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {f"layers.{i}.{name}.weight": (2, 3) for i in range(2) for name in "qkv"} | {"head.weight": (4, 2)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def _expected() -> dict[str, torch.Size]:
    return {key: torch.Size(shape) for key, shape in OURS.items()}


@settings(max_examples=30, deadline=None)
@given(sources=st.integers(1, 4), parts=st.integers(1, 3), rows=st.integers(1, 3), bias=st.booleans())
def test_interleaved_rows_is_an_inverse_pair(sources: int, parts: int, rows: int, bias: bool) -> None:
    shape = (parts * rows,) if bias else (parts * rows, 2)
    tensors = [torch.randn(shape) for _ in range(sources)]
    transform = interleaved_rows(sources, parts)
    together = transform.forward(tensors)
    assert together[0].shape[0] == sources * parts * rows
    for before, after in zip(tensors, transform.backward(together), strict=True):
        assert torch.equal(before, after)


def test_interleaved_rows_order() -> None:
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11, 12, 13])
    assert interleaved_rows(2, parts=2).forward([a, b])[0].tolist() == [0, 1, 10, 11, 2, 3, 12, 13]


def test_flattened_columns_is_an_inverse_pair() -> None:
    weight = torch.randn(5, 4, 2, 2)
    transform = flattened_columns((4, 2, 2))
    flat = transform.forward([weight])
    assert flat[0].shape == (5, 16)
    assert torch.equal(transform.backward(flat)[0], weight)


def test_convert_and_back_is_bitwise() -> None:
    file = _file()
    ours = convert(lazy_state(file), RULES, origin="f", expected=_expected())
    assert set(ours) == set(OURS)
    assert torch.equal(ours["blocks.1.qkv.weight"].read()[2:4], file["layers.1.k.weight"])
    back = convert(ours, reverse(RULES), origin="g")
    assert set(back) == set(file)
    assert all(torch.equal(back[key].read(), tensor) for key, tensor in file.items())


def test_nothing_is_read_before_it_is_asked_for() -> None:
    reads: list[str] = []

    def watched(key: str, tensor: torch.Tensor) -> LazyTensor:
        def read() -> torch.Tensor:
            reads.append(key)
            return tensor

        return LazyTensor(tensor.shape, tensor.dtype, read)

    state = {key: watched(key, tensor) for key, tensor in _file().items()}
    ours = convert(state, RULES, origin="f", expected=_expected())
    assert reads == []
    ours["blocks.0.qkv.weight"].read()
    assert sorted(reads) == [f"layers.0.{name}.weight" for name in "kqv"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layers.0.k.weight": None}, "1 missing: layers.0.k.weight"),
        ({"head.weight": None}, "1 missing: head.weight"),
        ({"extra.weight": torch.zeros(1)}, "1 not known to this model: extra.weight"),
        ({"layers.7.qkv.weight": torch.zeros(6, 3)}, "not known to this model: layers.7.qkv.weight"),
        ({"head.weight": torch.zeros(2, 4)}, r"head.weight is \(2, 4\), expected \(4, 2\)"),
        ({"layers.1.q.weight": torch.zeros(2, 9)}, r"\(2, 9\), \(2, 3\), \(2, 3\) do not go together"),
        ({"head.weight": torch.zeros(4, 2, dtype=torch.int8)}, "holds torch.int8, expected floating-point"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, torch.Tensor | None], named: str) -> None:
    file = {key: tensor for key, tensor in {**_file(), **change}.items() if tensor is not None}
    with pytest.raises(WeightsError, match=named) as error:
        convert(lazy_state(file), RULES, origin="model.safetensors", expected=_expected())
    assert str(error.value).startswith("model.safetensors ")


def test_many_missing_names_are_counted() -> None:
    expected = {f"blocks.{i}.qkv.weight": torch.Size((6, 3)) for i in range(9)} | {"out.weight": torch.Size((4, 2))}
    with pytest.raises(WeightsError, match=r"7 missing: layers.2.q.weight, .*, \.\.\."):
        convert(lazy_state(_file()), RULES, origin="f", expected=expected)


def test_drop_rules_take_what_they_name() -> None:
    state = lazy_state({**_file(), "cache.position.table": torch.zeros(3)})
    assert set(convert(state, RULES, origin="f", expected=_expected())) == set(OURS)


def test_alias_alone_is_read() -> None:
    file = _file()
    stacked = torch.cat([file.pop(f"layers.0.{name}.weight") for name in "qkv"])
    ours = convert(lazy_state({**file, "layers.0.qkv.weight": stacked}), RULES, origin="f", expected=_expected())
    assert torch.equal(ours["blocks.0.qkv.weight"].read(), stacked)


def test_alias_beside_the_original_must_be_equal() -> None:
    file = _file()
    stacked = torch.cat([file[f"layers.0.{name}.weight"] for name in "qkv"])
    convert(lazy_state({"layers.0.qkv.weight": stacked, **file}), RULES, origin="f", expected=_expected())
    with pytest.raises(WeightsError, match="two spellings with different values"):
        convert(lazy_state({"layers.0.qkv.weight": stacked + 1, **file}), RULES, origin="f", expected=_expected())


def test_two_rules_for_one_target_are_an_error() -> None:
    rules = (same("a.{p}", "out.{p}"), same("b.{p}", "out.{p}"))
    with pytest.raises(WeightsError, match=r"written to out.weight a second time"):
        convert(lazy_state({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}), rules, origin="f")
