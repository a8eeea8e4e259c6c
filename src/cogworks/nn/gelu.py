"""GELU in its tanh form, computed the way that the device at hand is fast at.

    gelu(x) = x (1 + tanh(u)) / 2 = x sigmoid(2 u),  u = sqrt(2 / pi) (x + 0.044715 x^3)

torch's tanh on a CPU takes several times as long as its sigmoid, which is vectorised; the two forms are equal but for
rounding. Source: arXiv:1606.08415, section 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cogworks.nn.linear import Linear
from cogworks.nn.overwrite import may_overwrite
from cogworks.nn.products import linear, onednn_multiplies, weight_gradient

_CUBIC = 0.044715
_SLOPE = 2 * math.sqrt(2 / math.pi) * _CUBIC  # 2 u = _SLOPE x (x^2 + 1 / _CUBIC)
_OFFSET, _ZERO = torch.tensor(1 / _CUBIC, device="cpu"), torch.tensor(0.0, device="cpu")
_PIECE = 2**18  # elements that stay in the cache from one operation to the next, and keep two threads busy


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, of any tensor; gradients flow."""
    if not _by_sigmoid(x):
        return F.gelu(x, approximate="tanh")
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _SigmoidGelu.apply(x)
        return result
    return _sigmoid_gelu(x, torch.empty_like(x))


def tanh_gelu_(x: Tensor) -> Tensor:
    """The same, written over `x`; without gradients."""
    return _sigmoid_gelu(x, x) if _by_sigmoid(x) else torch.ops.aten.gelu_(x, approximate="tanh")


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """tanh_gelu(layer(x)): (..., I) -> (..., O)."""
    if not may_overwrite(layer):
        return tanh_gelu(layer(x))
    # With AVX-512 faster than the two apart by a half or more; with AVX2 up to 1.8 times as long.
    if isinstance(layer, nn.Linear) and onednn_multiplies(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return tanh_gelu_(layer(x))


def gelu_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(tanh_gelu(x)): (..., I) -> (..., O), for training.

    Where `layer` is plain, `x` alone is kept for the backward pass, which computes the GELU again: of the widest
    tokens of a block half goes, for a fortieth of the time of a training step.
    """
    if not _is_plain(layer) or torch.compiler.is_compiling():
        return layer(tanh_gelu(x))
    product: Tensor = _GeluLinear.apply(x, layer.weight, layer.bias)
    return product


def _is_plain(layer: nn.Module) -> bool:
    """Whether a linear is our own, computes in the dtype of its weight, and nobody listens to it."""
    return (
        type(layer) is Linear
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
        and not layer._backward_pre_hooks
        and (layer.weight.is_meta or not torch.is_autocast_enabled(layer.weight.device.type))
    )


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(tanh_gelu(x), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        to_x = to_weight = None
        if needs_weight:
            to_weight = weight_gradient(grad, tanh_gelu(x))
        if needs_x:
            to_x = linear(grad, weight.t())
            torch.ops.aten.gelu_backward(to_x, x, approximate="tanh", grad_input=to_x)
        return to_x, to_weight, grad.flatten(0, -2).sum(0) if needs_bias else None


def _by_sigmoid(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return plain and not torch.compiler.is_compiling()


def _sigmoid_gelu(x: Tensor, out: Tensor) -> Tensor:
    """Into `out`, which may be `x`; piece by piece, so that the passes over one piece stay in the cache."""
    x = x.detach()
    if x.numel() <= _PIECE:
        return _write_sigmoid_gelu(x, torch.empty_like(x), out)
    pieces = x.view(-1).split(_PIECE)
    scratch = torch.empty_like(pieces[0])
    for piece, place in zip(pieces, out.view(-1).split(_PIECE), strict=True):
        _write_sigmoid_gelu(piece, scratch[: len(piece)], place)
    return out


def _write_sigmoid_gelu(x: Tensor, scratch: Tensor, out: Tensor) -> Tensor:
    # Sums with a constant and with zero, so that no pass is there for a factor alone.
    gate = torch.addcmul(_OFFSET, x, x, out=scratch)
    torch.addcmul(_ZERO, gate, x, value=_SLOPE, out=gate)
    return torch.mul(x, gate.sigmoid_(), out=out)


class _SigmoidGelu(torch.autograd.Function):
    """Keeps its input alone. Backward torch's kernel is as fast as passes of ours would be."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _sigmoid_gelu(x, torch.empty_like(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
