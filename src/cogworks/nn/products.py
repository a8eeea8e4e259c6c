"""Products of tokens and weights, where MKL, by which torch multiplies float32 matrices on x86, is the slower way.

It uses AVX-512 on Intel's CPUs alone: on those of AMD that have it, oneDNN is twice as fast. And a weight that meets a
few rows, as those of modulations do, has to be read once, which takes MKL on AMD three times as long as memory does,
unless the weight is its first matrix. Everything else is `F.linear`, whose results these are but for rounding.

Letters: M rows (tokens of a batch), I input width, O output rows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cogworks.nn.onednn_conv import HAS_ONEDNN, LIBRARY

_SMALL = 2**20
"""Multiplications up to which a product costs oneDNN more to prepare than to compute."""
_COPY = 2**21
"""Numbers that oneDNN may copy for a product, 8 MB. Of wide linears it would be as much as their tokens take, when a
training step holds most; torch's library needs twice the time, and nothing besides."""


_FEW = 8
_LARGE = 2**16
"""Rows up to which, and numbers of a weight from which, it is better read as the first matrix."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, differentiable: (..., I), (O, I), (O,) -> (..., O)."""
    if _has_few_rows(x, weight):
        return _weight_first(x, weight, bias)
    if not (MKL_LEAVES_AVX512 and onednn_multiplies(x, weight) and x.numel() * len(weight) >= _SMALL):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        compiled: Tensor = torch.ops.cogworks.linear(x, weight, bias)
        return compiled
    recorded = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    return _Product.apply(x, weight, bias) if recorded else _product(x, weight, bias)


def _has_few_rows(x: Tensor, weight: Tensor) -> bool:
    return (
        0 < x.numel() <= _FEW * x.shape[-1]
        and weight.numel() >= _LARGE
        and MKL_ON_AMD
        and not torch.compiler.is_compiling()
        and _are_floats_of_a_cpu(x, weight)
    )


def _weight_first(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    columns = rows.t() if len(rows) > 1 else rows.expand(2, -1).t()  # by a vector MKL is as slow again
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product[:, : len(rows)].t().reshape(*x.shape[:-1], len(weight)).contiguous()


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Of the weight of `linear`, from the gradient (..., O) of its result and its input (..., I): (O, I)."""
    rows, tokens = grad.flatten(0, -2), x.flatten(0, -2)
    if MKL_LEAVES_AVX512 and onednn_multiplies(rows, tokens) and rows.numel() * tokens.shape[1] >= _SMALL:
        return _of_weight(_product, rows, tokens)
    return rows.t() @ tokens


def onednn_multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product with AVX-512 can take the place of `F.linear`: in float32 on a CPU.

    Without gaps, which would make it slow beyond measure. Tensors of other classes have no values, or keep them
    elsewhere.
    """
    return HAS_AVX512_PRODUCT and x.is_contiguous() and _are_floats_of_a_cpu(x, weight)


def _are_floats_of_a_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and (torch.compiler.is_compiling() or type(x) is Tensor)
        and not torch.is_autocast_enabled("cpu")
    )


def _cpu_maker() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()  # on Windows the maker is the last of its words
    return next((line for line in lines if line.startswith("vendor_id")), "")


HAS_PRODUCT = HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch has oneDNN's product of tokens and weights."""
HAS_AVX512_PRODUCT = HAS_PRODUCT and torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether it has, and uses AVX-512 here."""
MKL_ON_AMD = torch.backends.mkl.is_available() and "AuthenticAMD" in _cpu_maker()
"""Whether torch multiplies by MKL on a CPU that it was not written for."""
MKL_LEAVES_AVX512 = HAS_AVX512_PRODUCT and MKL_ON_AMD
"""Whether it would leave the AVX-512 of a CPU unused."""

_Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not torch.backends.mkldnn.enabled:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _shape_alone(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, _ = inputs
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    # A LoRA trains no weight of a linear: then the tokens are not kept.
    ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)


def _gradients(multiply: _Multiply, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Products of the same kind, of transposed views."""
    x, weight = ctx.saved_tensors
    grad = grad.contiguous()
    rows = grad.flatten(0, -2)  # (M, O)
    # First what oneDNN needs room for besides, which is free again when there are the gradients of tokens.
    to_weight = None if x is None else _of_weight(multiply, rows, x.flatten(0, -2))
    to_x = None if weight is None else multiply(grad, weight.t(), None)
    return to_x, to_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


def _of_weight(multiply: _Multiply, grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, (O, I). oneDNN copies the first factor before it multiplies, which takes time, and room."""
    rows, height = grad.shape
    turned = rows > height > x.shape[1]
    if (x if turned else grad).numel() > _COPY:
        return grad.t() @ x
    if turned:
        return multiply(x.t(), grad.t(), None).t().contiguous()
    return multiply(grad.t(), x.t(), None)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        _keep(ctx, inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(_product, ctx, grad)


def _compiled_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(torch.ops.cogworks.linear, ctx, grad)


# A compiler asks oneDNN's own operation for weights that never change: it is told of this one instead.
LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.impl("linear", _product, "CPU")
torch.library.register_fake("cogworks::linear", _shape_alone, lib=LIBRARY)
torch.library.register_autograd("cogworks::linear", _compiled_gradients, setup_context=_keep, lib=LIBRARY)
