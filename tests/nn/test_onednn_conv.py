"""Convolutions by way of oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogworks.nn import onednn_conv
from cogworks.nn.onednn_conv import (
    HAS_ONEDNN,
    Conv2d,
    PointwiseConv3d,
    convolve,
    is_channels_last,
    takes_onednn,
    to_native_layout,
)
from helpers.operations import operations
from helpers.vae_reference import channels_last

# Sums of at most 144 products of order one in float32, in another order.
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch was built without oneDNN")


def numbers(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)
    return channels_last(x) if last else x


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("frames", "kernel"), [(1, (1, 1, 1)), (1, (1, 3, 3)), (3, (3, 3, 3)), (6, (3, 3, 3))])
def test_clips_and_their_gradients(last: bool, batch: int, frames: int, kernel: tuple[int, int, int]) -> None:
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    given = numbers(batch, 5, frames, 6, 7, last=last), numbers(4, 5, *kernel), numbers(4)
    ours, theirs = ([t.clone().requires_grad_() for t in given] for _ in range(2))
    made = convolve(*ours, padding, (1, 1, 1))
    expected = F.conv3d(*theirs, padding=padding)
    torch.testing.assert_close(made, expected, **TOLERANCE)
    weight = torch.randn_like(expected)
    (made * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, **TOLERANCE)
    assert is_channels_last(made) == (last and HAS_ONEDNN)


@pytest.mark.parametrize("stride", [1, 2])
def test_pictures(stride: int) -> None:
    ours, theirs, x = Conv2d(4, 6, 3, stride, 1), torch.nn.Conv2d(4, 6, 3, stride, 1), numbers(3, 4, 9, 7)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_kernels_of_one(batch: int, last: bool, gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones as matrix products, where nothing is recorded and channels lie side by side; all others not."""
    ours, theirs, x = PointwiseConv3d(4, 6), torch.nn.Conv3d(4, 6, 1), numbers(batch, 4, 5, 6, 7, last=last)
    theirs.load_state_dict(ours.state_dict())
    products = last and not gradients
    with torch.set_grad_enabled(gradients):
        for small in (True, False):
            if not small:
                monkeypatch.setattr(onednn_conv, "_SMALL", x.numel() * 6 - 1)
            torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
            assert is_channels_last(ours(x)) == (last and (HAS_ONEDNN or (products and small)))
            assert ("aten.addmm.default" in operations(lambda: ours(x))) == (products and small)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_torchs(dtype: torch.dtype) -> None:
    x, weight = (numbers(*shape, dtype=dtype) for shape in ((1, 3, 4, 5, 6), (2, 3, 3, 3, 3)))
    assert not takes_onednn(x, weight)
    made = convolve(x, weight, None, (0, 1, 1), (1, 1, 1))
    assert torch.equal(made, F.conv3d(x, weight, padding=(0, 1, 1)))


@needs_onednn
def test_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = numbers(1, 3, 4, 5, 6), numbers(2, 3, 3, 3, 3)
    assert takes_onednn(x, weight)
    assert not takes_onednn(x.to("meta"), weight.to("meta"))
    assert not takes_onednn(x[:, :, :0], weight)
    assert not takes_onednn(x, weight.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes_onednn(x, weight)
        assert convolve(x, weight, None, (0, 1, 1), (1, 1, 1)).dtype == torch.bfloat16
    with torch._subclasses.FakeTensorMode() as mode:
        assert not takes_onednn(mode.from_tensor(x), mode.from_tensor(weight))
        made = convolve(mode.from_tensor(x), mode.from_tensor(weight), None, (0, 1, 1), (1, 1, 1))
    assert made.shape == (1, 2, 2, 5, 6)
    names = operations(lambda: convolve(x, weight, None, (0, 1, 1), (1, 1, 1)))
    assert names == ["aten.mkldnn_convolution.default"]
    with torch.backends.mkldnn.flags(enabled=False):
        switched_off = operations(lambda: convolve(x, weight, None, (0, 1, 1), (1, 1, 1)))
    assert "aten.mkldnn_convolution.default" not in switched_off


@needs_onednn
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_operation_for_compilers(last: bool, stride: int) -> None:
    """torch's own checks: schema, fake results, autograd, tracing with and without fixed shapes."""
    x = numbers(1, 3, 5, 6, 7, last=last).requires_grad_()
    weight, bias = numbers(4, 3, 3, 3, 3).requires_grad_(), numbers(4).requires_grad_()
    for given in ((x, weight, bias), (x.detach(), weight, None)):
        torch.library.opcheck(torch.ops.cogworks.convolve.default, (*given, (0, 1, 1), (1, stride, stride)))


@needs_onednn
def test_compiled_gradients() -> None:
    given = numbers(1, 3, 4, 5, 6), numbers(2, 3, 3, 3, 3), numbers(2)
    ours, theirs = ([t.clone().requires_grad_() for t in given] for _ in range(2))
    compiled = torch.compile(
        lambda x, weight, bias: convolve(x, weight, bias, (0, 1, 1), (1, 1, 1)), fullgraph=True, backend="aot_eager"
    )
    compiled(*ours).square().sum().backward()
    F.conv3d(*theirs, padding=(0, 1, 1)).square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-5)  # squares reach some tens


def test_clips_are_native_where_nothing_follows_them() -> None:
    x = numbers(1, 3, 4, 5, 6)
    with torch.no_grad():
        assert is_channels_last(to_native_layout(x))
        assert to_native_layout(x.to("meta")).is_contiguous()
        assert torch.equal(to_native_layout(x), x)
    # The negative control: a compiler, or gradients, would meet kernels of torch that fail on it.
    assert to_native_layout(channels_last(x)).is_contiguous()
