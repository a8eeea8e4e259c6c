"""Convolutions that go to oneDNN wherever it can compute them.

On a CPU torch leaves oneDNN for a loop of its own when a sample is small (batch x channels x frames x height up to
20,480 in float32), which takes up to twelve times as long, and copies channels-last inputs for it. Here such
convolutions are handed to oneDNN directly; everything else is `F.conv2d` and `F.conv3d`, whose results these are.

Letters: B batch, C channels, T frames.
Source: ConvParams::use_mkldnn in torch's aten/src/ATen/native/Convolution.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SMALL = 2**22
"""Products up to which a convolution of kernel 1 costs oneDNN more to prepare than to compute."""
HAS_ONEDNN = torch.backends.mkldnn.is_available()
"""Whether this torch was built with it."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Cross-correlation of pictures or clips, differentiable.

    Args:
        x: (B, C, H, W) or (B, C, T, H, W).
        weight: (C', C, ...kernel).
        bias: (C',), or None.
        padding: zeros on both sides, for each dimension of the kernel.
        stride: likewise.

    Returns:
        (B, C', ...), in channels-last layout where `x` is.
    """
    if not takes_onednn(x, weight):
        convolution = F.conv2d if x.ndim == 4 else F.conv3d
        return convolution(x, weight, bias, tuple(stride), tuple(padding))
    if torch.compiler.is_compiling():
        compiled: Tensor = torch.ops.cogworks.convolve(x, weight, bias, padding, stride)
        return compiled
    return _onednn(x, weight, bias, padding, stride)


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this, and torch might not ask it.

    Of the dtypes float32 alone: torch asks for the narrow ones wherever the CPU has units for them, and oneDNN knows no
    float64. Tensors of other classes have no values, or keep them elsewhere.
    """
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and (torch.compiler.is_compiling() or type(x) is Tensor)
        and x.numel() > 0
        and HAS_ONEDNN
        and not torch.is_autocast_enabled("cpu")
    )


def is_recorded(x: Tensor) -> bool:
    """Whether what is done with `x` is followed, by autograd, a compiler or a tensor's own class.

    Then nothing is written in place, and layouts are plain.
    """
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor


def to_native_layout(x: Tensor) -> Tensor:
    """(B, C, T, H, W) in the layout in which this device convolves without copies: on a CPU, channels last.

    Not where it `is_recorded`: the backward pass of torch's group norm (2.13) crashes on clips with channels last.
    """
    last = x.device.type == "cpu" and not is_recorded(x)
    return x.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def is_channels_last(x: Tensor) -> bool:
    """Whether a clip (B, C, T, H, W), or some of its frames, has its channels side by side in memory and rows after."""
    return x.stride(1) == 1 and x.stride(4) == x.shape[1] and not x.is_contiguous()


def empty_clip(
    x: Tensor,
    *,
    channels: int | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Room for a clip like `x` (B, C, T, H, W), in its layout, of other sizes where they are given."""
    given = (None, channels, frames, height, width)
    shape = [size if wanted is None else wanted for size, wanted in zip(x.shape, given, strict=True)]
    layout = torch.channels_last_3d if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by way of `convolve`: dense, zeros at the border."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.padding, tuple)  # given as numbers
        return convolve(x, self.weight, self.bias, self.padding, self.stride)


class PointwiseConv3d(nn.Conv3d):
    """`nn.Conv3d` of kernel 1, by way of `convolve`, or where it is small as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W) -> (B, C', T, H, W)
        if x.numel() * self.out_channels <= _SMALL and not is_recorded(x) and is_channels_last(x):
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        return convolve(x, self.weight, self.bias, (0, 0, 0), (1, 1, 1))


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], stride: Sequence[int]) -> Tensor:
    ones = (1,) * len(padding)
    if not torch.backends.mkldnn.enabled:  # asked here: a compiler cannot
        return torch.ops.aten.convolution(x, weight, bias, stride, padding, ones, False, (0,) * len(padding), 1)
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, ones, 1)


def _shape_alone(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    dims = len(padding)
    sizes = zip(x.shape[2:], weight.shape[2:], padding, stride, strict=True)
    places = [(size + 2 * zeros - kernel) // step + 1 for size, kernel, zeros, step in sizes]
    result = x.new_empty((x.shape[0], weight.shape[0], *places))
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    lasting = any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in (x, weight))
    return result.contiguous(memory_format=last) if lasting else result


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.padding, ctx.stride = inputs
    ctx.bias_shape = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dims = len(ctx.padding)
    wanted = list(ctx.needs_input_grad[:3])
    found = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        ctx.bias_shape,
        ctx.stride,
        ctx.padding,
        [1] * dims,
        False,
        [0] * dims,
        1,
        wanted,
    )
    return *found, None, None


LIBRARY = torch.library.Library("cogworks", "DEF")
"""The operations that compilers are told of."""
# torch.mkldnn_convolution says nothing of shapes, so that a compiler cannot follow it: it is told of this operation
# instead. Called without a compiler, it would take as long as a small convolution.
LIBRARY.define("convolve(Tensor x, Tensor weight, Tensor? bias, SymInt[] padding, SymInt[] stride) -> Tensor")
LIBRARY.impl("convolve", _onednn, "CPU")
torch.library.register_fake("cogworks::convolve", _shape_alone, lib=LIBRARY)
torch.library.register_autograd("cogworks::convolve", _gradients, setup_context=_keep, lib=LIBRARY)
