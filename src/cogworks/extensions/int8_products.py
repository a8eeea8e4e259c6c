"""Linears that multiply 8-bit tokens by 8-bit weights, a scale for each token and for each row of the weight.

    attach(network, Int8Products())
    quantize_linears(network, extension=Int8Products)   # one linear after the other: the least memory on the way

x W^T is computed as (x / s) (W / r)^T s r, with x / s and W / r rounded to integers in [-127, 127] and s, r a 127th of
the largest magnitude of a token and of a row. The sums of products are exact: int32, on CPUs that have units for them.
Elsewhere the same integers are multiplied in float32, which holds whole numbers up to 2**24: the same result but for
the rounding of larger sums, and no gain in time.

For inference alone: rounded tokens have no gradient. `Int8Weights` is there to train on.

Letters: M tokens, I input width, O output rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import WrapperFactory
from cogworks.extensions.int8 import Int8Linear, Int8Weights, quantize_rows

_UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")
_PIECE = 2**17
"""Numbers of a piece of work for one thread: 512 kB as float32, which stays in its cache from pass to pass."""


@dataclass(frozen=True)
class Int8Products(Int8Weights):
    """Compute linears from 8-bit tokens and 8-bit weights, which are held as `Int8Weights` holds them."""

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [(target, Int8ProductLinear) for target in self.targets]


@cache
def why_not_integers(device_type: str) -> str | None:
    """Why products of int8 are not computed in integers on a device, as a sentence; None where they are.

    Without units for them oneDNN is either a hundred times slower, or adds pairs of products in 16 bits, which is wrong
    where they overflow.
    """
    if device_type != "cpu":
        return "products of int8 are computed in integers on CPUs alone"
    if not hasattr(torch, "_int_mm"):
        return f"torch {torch.__version__} has no product of int8 matrices (torch._int_mm)"
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN, which multiplies int8"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not any(capabilities.get(unit) for unit in _UNITS):
        return "this CPU has no units for products of int8 (VNNI or AMX)"
    return None


class Int8ProductLinear(Int8Linear):
    """y = s r (x / s) (W / r)^T + b, with rounded tokens and weights. Keys and memory are those of `Int8Linear`.

    Attributes:
        integers: sums are computed in int32 on a CPU; where this is False, in float32.
    """

    def __init__(self, path: str, inner: nn.Module) -> None:
        super().__init__(path, inner)
        self.integers = why_not_integers("cpu") is None

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        bias = self.bias
        if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            raise ExtensionError(
                "linears that multiply int8 have no gradient: call the network under torch.no_grad(), or hold its "
                "weights by Int8Weights to train on them"
            )
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        integers = self.integers and kind in ("cpu", "meta")
        with torch.autocast(kind if kind != "meta" else "cpu", enabled=False):
            tokens, token_scale = quantize_tokens(x.reshape(-1, x.shape[-1]))
            sums = multiply(tokens, self.linear.weight, integers=integers)
            product = rescale(sums, token_scale, self.weight_scale, bias, x.dtype)
        return product.view(*x.shape[:-1], product.shape[-1])


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of tokens (M, I), piece by piece: each is read once from memory and then from the cache."""
    pieces = _pieces(tokens)
    if len(pieces) == 1:
        return quantize_rows(tokens)
    values = torch.empty_like(tokens, dtype=torch.int8)
    scale = tokens.new_empty(len(tokens), dtype=torch.float32)
    for piece in pieces:
        values[piece], scale[piece] = quantize_rows(tokens[piece])
    return values, scale


def multiply(tokens: Tensor, weight: Tensor, *, integers: bool) -> Tensor:
    """tokens weight^T of int8 matrices.

    Args:
        tokens: (M, I) int8.
        weight: (O, I) int8.
        integers: whether to compute in integers.

    Returns:
        (M, O) int32, or float32: the same as long as no partial sum goes beyond 2**24.
    """
    if integers:
        return torch._int_mm(tokens, weight.t())
    return F.linear(tokens.float(), weight.float())


def rescale(sums: Tensor, token_scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """sums s r + b, (M, O) in `dtype`, computed in float32.

    Args:
        sums: (M, O) int32 or float32; overwritten where the result takes as many bytes.
        token_scale: (M,) float32.
        weight_scale: (O,) float32.
        bias: (O,).
    """
    added = None if bias is None else bias.detach().float()
    token_scale, weight_scale = token_scale[:, None], weight_scale.detach()
    scaled = sums.view(dtype) if dtype.itemsize == sums.itemsize else torch.empty_like(sums, dtype=dtype)
    for piece in _pieces(sums):
        rows = sums[piece] * weight_scale
        scaled[piece] = (
            rows.mul_(token_scale[piece]) if added is None else torch.addcmul(added, rows, token_scale[piece])
        )
    return scaled


def _pieces(matrix: Tensor) -> list[slice]:
    """Its rows in pieces that stay in the caches of the threads.

    All at once where a compiler decides on that, and none where there are no values: a dry run of a long video would
    spend minutes on pieces whose memory is nothing.
    """
    rows, width = matrix.shape
    if torch.compiler.is_compiling():
        return [slice(0, rows)]
    if matrix.is_meta:
        return []
    step = max(_PIECE * torch.get_num_threads() // max(width, 1), 1)
    return [slice(start, start + step) for start in range(0, rows, step)]
