"""What kernels allocate for themselves, besides their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cogworks.nn.onednn_conv import HAS_ONEDNN

aten = torch.ops.aten


def workspace_bytes(func: Any, args: Sequence[Any], result: Tensor, device: torch.device) -> int:
    """Bytes that one operation holds while it runs, beyond arguments and results.

    Args:
        func: an operation of `torch.ops.aten`.
        args: its positional arguments; tensors have shapes alone.
        result: its first result, likewise.
        device: where it would run.

    Facts, from peaks of resident memory in fresh processes (torch 2.13, oneDNN 3.12, x86-64, 1 and 2 threads), each to
    within 1 MB of 3 to 230 MB:

    - oneDNN copies a convolution's input and weights into blocked layouts, and then its blocked result to a plain one,
      when the copies of input and weights are gone.
    - For the VAE in float32 on a CPU, which asks oneDNN itself and keeps channels last (nn/onednn_conv.py), it copies
      the weights alone. A dry run does not know of that layout, and shows inputs that are not contiguous.
    - torch's own convolution writes every kernel position of its input into a matrix of columns; not for 1x1 kernels.
    - Both of torch's ways, and norms, first copy an input that is not contiguous.

    cuDNN is counted like oneDNN: its kernels for tensor cores take channels last and copy in and out. No other kernel
    in use holds anything that counts.
    """
    packet = func._overloadpacket
    if packet in (aten.native_layer_norm, aten.native_group_norm):
        return _copy_bytes(args[0])
    if packet is not aten.convolution:
        return 0
    x, weight = args[:2]
    if device.type == "cpu" and x.dtype == torch.float32 and HAS_ONEDNN:
        return _bytes(weight)
    if device.type == "cpu" and _is_plain(x, weight, args[3:9]):
        positions = math.prod(weight.shape[2:])
        columns = _bytes(result) // result.shape[1] * x.shape[1] * positions if positions > 1 else 0
        return _copy_bytes(x) + columns
    return _copy_bytes(x) + max(_bytes(x) + _bytes(weight), _bytes(result))


def _is_plain(x: Tensor, weight: Tensor, options: Sequence[Any]) -> bool:
    """Whether a CPU would take torch's own convolution; torch is asked, with tensors that hold one value."""
    like = [torch.empty((), dtype=tensor.dtype).expand(tensor.shape) for tensor in (x, weight)]
    stride, padding, dilation, transposed, output_padding, groups = options
    backend = torch._C._select_conv_backend(
        *like, None, stride, padding, dilation, transposed, output_padding, groups, None
    )
    return backend.name.startswith("Slow")


def _copy_bytes(x: Tensor) -> int:
    return 0 if x.is_contiguous() else _bytes(x)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
