"""Linears whose weights are held in 8 bits, a scale for each row.

    attach(network, Int8Weights())               # the float weights go when the handle is dropped
    quantize_linears(network)                    # the same, one linear after the other: the least memory on the way
    attach(network, Int8Weights(), LoRA(rank=16))

Inputs, products and outputs stay in the dtype of the input: what changes is the memory, and the weights by at most half
a step of their row, 1/254 of its largest value. Gradients reach the input and whatever adapters stand outside; the
weights themselves do not train.

Letters: I input width, O output rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Extension, Place, Wrapper, WrapperFactory, attach, matching_paths
from cogworks.nn.linear import StackedLinear
from cogworks.nn.products import linear

BLOCK_LINEARS = ("blocks.*.attention.qkv", "blocks.*.attention.out", "blocks.*.mlp.up", "blocks.*.mlp.down")
"""Four fifths and more of a transformer's weights; norms, modulation and embeddings keep their precision."""

LEVELS = 127  # of each sign: -128 has no counterpart


@dataclass(frozen=True)
class Int8Weights:
    """Hold the weights of linears as int8 with a float32 scale for each row, and compute in the dtype of the input.

    Stands inside adapters: attach it before a LoRA, or together with it. The `Attachment` keeps the linears as they
    were, so that `detach` restores them bitwise; whoever drops it lets their memory go.

    Attributes:
        targets: path patterns of linears.
    """

    targets: tuple[str, ...] = BLOCK_LINEARS

    @property
    def place(self) -> Place:
        return Place.WEIGHT

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [(target, Int8Linear) for target in self.targets]


def quantize_linears(
    network: nn.Module,
    targets: Sequence[str] = BLOCK_LINEARS,
    *,
    extension: Callable[[tuple[str, ...]], Extension] = Int8Weights,
) -> list[str]:
    """Put `Int8Weights` on linears for good. Each float weight goes before the next one is looked at.

    Args:
        extension: what to put there instead, made of the paths that it goes to: `Int8Products`.

    Returns:
        The paths of the linears.

    Raises:
        ExtensionError: a pattern matches nothing, or what it matches is no plain linear. Linears that came before it
            are in 8 bits then.
    """
    paths = []
    for target in targets:
        for path in matching_paths(network, target):
            attach(network, extension((path,)))
            paths.append(path)
    return paths


def quantize_empty(
    network: nn.Module, *, extension: Callable[[tuple[str, ...]], Extension] = Int8Weights
) -> Callable[[str, Tensor], dict[str, Tensor]]:
    """Put `Int8Weights`, or another `extension`, on the linears of a network that has no values yet.

    Args:
        network: on the meta device.

    Returns:
        From a name in the state dict that the network had, and a tensor, to what the network now holds of it, by name.
        Raises ExtensionError where a weight holds values that are not finite.
    """
    paths = set(quantize_linears(network, extension=extension))

    def pack(name: str, tensor: Tensor) -> dict[str, Tensor]:
        path, _, last = name.rpartition(".")
        if path not in paths or last != "weight":
            return {name: tensor}
        values, scale = _quantize_weight(path, tensor)
        return {name: values, f"{path}.weight_scale": scale}

    return pack


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8 bits: `values * scale[:, None]` is at most half a `scale` from it, but for rounding.

    Args:
        rows: (R, I), floating-point: the rows of a weight, or tokens.

    Returns:
        values (R, I) int8 in [-127, 127], and scale (R,) float32: a 127th of the row's largest magnitude. A row of
        zeros gets scale 1. A row that holds what is not finite gets a scale that is not, and values without meaning.
    """
    if rows.is_meta:  # operations on such tensors import torch's compiler: 1.5 seconds
        return rows.new_empty(rows.shape, dtype=torch.int8), rows.new_empty(len(rows), dtype=torch.float32)
    wide = rows.detach().float()
    largest = torch.maximum(wide.amax(dim=1), -wide.amin(dim=1))
    scale = torch.where(largest == 0, 1.0, largest / LEVELS)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)  # a subnormal scale would be a coarse one
    return (wide * (1 / scale)[:, None]).round_().to(torch.int8), scale


def dequantize_rows(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """(O, I) int8 and (O,) float32 to (O, I) in `dtype`, rounded once."""
    return (values * scale[:, None]).to(dtype)


class Int8Linear(Wrapper):
    """y = x W^T + b with W = values * scale, made anew for each product in the dtype of x.

    `inner` is a linear of the same kind, with the same bias, whose `weight` is the int8 values. In the state dict they
    keep the key of the weight, and `weight_scale` stands beside it; a state dict with floating-point weights, as of a
    checkpoint of the model, is loaded too and brought to 8 bits.

    Args:
        path: of the linear in its network.
        inner: the linear. It is not changed.

    Raises:
        ExtensionError: `inner` is no linear with a floating-point weight, or holds values that are not finite.
    """

    returns_fresh = True
    weight_scale: nn.Parameter
    _like: Tensor

    def __init__(self, path: str, inner: nn.Module) -> None:
        if not isinstance(inner, nn.Linear) or not inner.weight.is_floating_point():
            raise ExtensionError(f"{path} is a {type(inner).__name__}: only the weights of plain linears go to 8 bits")
        values, scale = _quantize_weight(path, inner.weight)
        super().__init__(_shell(inner, values))
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        # Without values: follows the network from dtype to dtype, so that `weight` can tell which one it is in.
        # It has a device in any case: a network that gets its values later is moved like others.
        device = "cpu" if inner.weight.is_meta else inner.weight.device
        self.register_buffer("_like", torch.empty(0, dtype=inner.weight.dtype, device=device), persistent=False)
        self.register_load_state_dict_pre_hook(_quantize_state)

    @property
    def linear(self) -> nn.Linear:
        """The holder of the int8 values and the bias."""
        assert isinstance(self.inner, nn.Linear)
        return self.inner

    @property
    def weight(self) -> Tensor:
        """(O, I) in the dtype of the network, made when it is asked for."""
        return dequantize_rows(self.linear.weight, self.weight_scale, self._like.dtype)

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product: Tensor = _Int8Product.apply(x, self.linear.weight, self.weight_scale, bias)
        return product

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move, and cast all but the scale, whose rounding would change every weight of a row."""
        scale = self.weight_scale.detach()
        super()._apply(fn, recurse)
        self.weight_scale.data = scale.to(self.weight_scale.device)
        return self


class _Int8Product(torch.autograd.Function):
    """x W^T + b. The backward pass makes W again: kept for it, the float weights of all layers would be in memory."""

    @staticmethod
    def forward(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, dequantize_rows(values, scale, x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        _, values, scale, _ = inputs
        ctx.save_for_backward(values, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        values, scale = ctx.saved_tensors
        to_x = linear(grad, dequantize_rows(values, scale, grad.dtype).t()) if ctx.needs_input_grad[0] else None
        to_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return to_x, None, None, to_bias


def _quantize_weight(path: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = quantize_rows(weight)
    if not scale.is_meta and not scale.isfinite().all():
        raise ExtensionError(f"{path} cannot go to 8 bits: its weight holds values that are not finite")
    return values, scale


def _shell(linear: nn.Linear, values: Tensor) -> nn.Linear:
    """A linear of the same kind around other values; the bias is shared."""
    with torch.device("meta"):  # nothing is drawn or allocated
        shell = (
            StackedLinear(linear.in_features, linear.block_features, linear.names)
            if isinstance(linear, StackedLinear)
            else nn.Linear(linear.in_features, linear.out_features)
        )
    shell.weight = nn.Parameter(values, requires_grad=False)
    shell.bias = linear.bias
    return shell


def _quantize_state(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    """Bring a floating-point weight to 8 bits. Runs after the wrapper's own hook, which names the keys of `inner`."""
    weight = state.get(f"{prefix}inner.weight")
    if weight is not None and weight.is_floating_point():
        state[f"{prefix}inner.weight"], state[f"{prefix}weight_scale"] = quantize_rows(weight)
