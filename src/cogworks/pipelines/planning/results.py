"""Shapes of results, without asking torch's own kernels for meta tensors.

Those are written in Python: the first of them imports torch's compiler, 1.5 seconds, and a norm takes 3 milliseconds.
What is not in the table is left to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


class Form(NamedTuple):
    """What a tensor looks like; the arguments of `torch.empty_strided`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def tensor(self) -> Tensor:
        """A tensor without values that looks so."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


Rule = Callable[..., list[Form] | None]


def result_forms(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Form] | None:
    """The results of an operation on these arguments; None where no rule says.

    Args:
        func: an operation of `torch.ops.aten` that gives new tensors.
        args, kwargs: its arguments; tensors have shapes alone.
    """
    rule = _RULES.get(func)
    if rule is not None:
        return rule(*args, **kwargs)
    if torch.Tag.pointwise in func.tags and not func._schema.is_mutable:
        return [_pointwise([arg for arg in args if isinstance(arg, Tensor)], yes_or_no=func._overloadpacket in _TESTS)]
    return None


def written_tensor(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The argument that an operation writes its result to; None where it makes a new tensor, or may change a shape."""
    if func not in _WRITERS and torch.Tag.pointwise not in func.tags:
        return None
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return kwargs[argument.name] if argument.name in kwargs else args[place]
    return None


def _plain(shape: Sequence[int], dtype: torch.dtype) -> Form:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return Form(tuple(shape), tuple(strides), dtype)


def _pointwise(tensors: list[Tensor], *, yes_or_no: bool) -> Form:
    """Dense, with axes in the order that they have in memory in the first argument of full size."""
    shape = np.broadcast_shapes(*(tensor.shape for tensor in tensors))  # torch's own imports its compiler
    dtype = torch.bool if yes_or_no else _promoted(tensors)
    full = next((tensor for tensor in tensors if tensor.shape == shape), None)
    if full is None or full.is_contiguous():
        return _plain(shape, dtype)
    order = sorted(range(len(shape)), key=full.stride().__getitem__, reverse=True)
    dense = _plain([shape[axis] for axis in order], dtype).strides
    return Form(tuple(shape), tuple(stride for _, stride in sorted(zip(order, dense, strict=True))), dtype)


def _promoted(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype of what is computed from `tensors`; a single number does not widen a tensor."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.ndim} or {tensor.dtype for tensor in tensors}
    return reduce(torch.promote_types, dtypes)


def _layer_norm(x: Tensor, over: Sequence[int], *rest: Any) -> list[Form]:
    rows = _plain([*x.shape[: x.ndim - len(over)], *(1 for _ in over)], torch.float32)
    return [_plain(x.shape, x.dtype), rows, rows]


def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, batch: int, channels: int, pixels: int, groups: int, eps: float
) -> list[Form]:
    rows = _plain([batch, groups], x.dtype)
    return [_plain(x.shape, x.dtype), rows, rows]


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> list[Form]:
    tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return [_plain(shape, _promoted(tensors))]


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> list[Form]:
    shape = list(tensors[0].shape)
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, len(tensors))
    return [_plain(shape, tensors[0].dtype)]


def _product(a: Tensor, b: Tensor, dtype: torch.dtype | None = None) -> list[Form]:
    return [_plain([*a.shape[:-1], b.shape[-1]], dtype or a.dtype)]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *rest: Any,
) -> list[Form]:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    places = [(size + 2 * pad - spread * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, spread in sizes]
    return [_plain([x.shape[0], weight.shape[0], *places], x.dtype)]


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> list[Form]:
    batch, heads, rows, width = q.shape
    out = _plain([batch, rows, heads, width], q.dtype).strides
    sums = _plain([batch, rows, heads], torch.float32).strides
    return [
        Form((batch, heads, rows, width), (out[0], out[2], out[1], out[3]), q.dtype),
        Form((batch, heads, rows), (sums[0], sums[2], sums[1]), torch.float32),
    ]


def _embedding(weight: Tensor, ids: Tensor, *rest: Any) -> list[Form]:
    return [_plain([*ids.shape, weight.shape[1]], weight.dtype)]


def _mean(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> list[Form]:
    gone = {dim % x.ndim for dim in dims}
    if keepdim:
        return [_plain([1 if axis in gone else size for axis, size in enumerate(x.shape)], x.dtype)]
    return [_plain([size for axis, size in enumerate(x.shape) if axis not in gone], x.dtype)]


def _pad(x: Tensor, pad: Sequence[int], value: float = 0.0) -> list[Form]:
    shape = list(x.shape)
    for place, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        shape[-place] += before + after
    return [_plain(shape, x.dtype)]


def _repeat(x: Tensor, times: Sequence[int]) -> list[Form]:
    shape = (*(1 for _ in range(len(times) - x.ndim)), *x.shape)
    return [_plain([size * count for size, count in zip(shape, times, strict=True)], x.dtype)]


def _copy(x: Tensor, memory_format: torch.memory_format | None = None, **options: Any) -> list[Form]:
    dtype = options.get("dtype") or x.dtype
    if memory_format is torch.contiguous_format:
        return [_plain(x.shape, dtype)]
    return [_pointwise([x], yes_or_no=False)._replace(dtype=dtype)]


def _arange(
    end: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **options: Any
) -> list[Form] | None:
    """Without values on the meta device alone; a table that is computed on the host is not asked for here."""
    if device is None or device.type != "meta":
        return None
    return [_plain([end], dtype or torch.int64)]


def _one_answer(x: Tensor) -> list[Form]:
    return [_plain([], torch.bool)]


_TESTS = {
    getattr(aten, name)
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "isinf", "isnan", "isfinite", "logical_and", "logical_not")
}
_WRITERS = {aten.copy_.default, aten.gelu_.default, aten.fill_.Scalar, aten.zero_.default}
_RULES: dict[Any, Rule] = {
    aten.clone.default: _copy,
    aten._to_copy.default: _copy,
    aten.empty_like.default: _copy,
    aten.full_like.default: lambda x, value, **options: _copy(x, **options),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.addmm.default: lambda bias, a, b: _product(a, b),
    aten._int_mm.default: lambda a, b: _product(a, b, torch.int32),
    aten.complex.default: lambda real, imaginary: [_plain(real.shape, torch.complex64)],
    aten.convolution.default: _convolution,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten.embedding.default: _embedding,
    aten.mean.dim: _mean,
    aten.var_mean.correction: lambda x, dims, keepdim=False, **options: 2 * _mean(x, dims, keepdim),
    aten.constant_pad_nd.default: _pad,
    aten.repeat.default: _repeat,
    aten.arange.default: _arange,
    aten.all.default: _one_answer,
    aten.any.default: _one_answer,
}
