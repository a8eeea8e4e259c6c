"""The forms of the tanh GELU against torch's own in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cogworks.nn import gelu, products
from cogworks.nn.gelu import gelu_linear, linear_gelu, tanh_gelu, tanh_gelu_
from cogworks.nn.linear import Linear

SHAPES = [(3, 5), (2, 7, 64), (1, gelu._PIECE + 3), (0, 4)]
# float32 rounding of a result of a few units; torch's own float32 form is as far from float64.
TOLERANCE = 2e-6


def exact(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x.double(), approximate="tanh").to(x.dtype)


def values(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", [tanh_gelu, tanh_gelu_])
@torch.no_grad()
def test_values(form: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
    x = values(*shape)
    torch.testing.assert_close(form(x.clone()), exact(x), atol=TOLERANCE, rtol=1e-6)
    transposed = x.clone().mT if x.ndim > 1 else x.clone()  # not contiguous
    torch.testing.assert_close(
        form(transposed.clone(memory_format=torch.preserve_format)), exact(x.mT), atol=TOLERANCE, rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_torchs(dtype: torch.dtype) -> None:
    x = values(4, 6).to(dtype)
    expected = F.gelu(x, approximate="tanh")
    assert torch.equal(tanh_gelu(x), expected)
    with torch.no_grad():
        assert torch.equal(tanh_gelu_(x.clone()), expected)


@torch.no_grad()
def test_extremes() -> None:
    x = torch.tensor([0.0, -0.0, 1e-30, 20.0, -20.0, 1e30, -1e30, float("inf"), float("nan")])
    ours, theirs = tanh_gelu(x), F.gelu(x, approximate="tanh")
    torch.testing.assert_close(ours[:5], theirs[:5], atol=1e-7, rtol=1e-6)
    assert ours[5] == 1e30
    assert ours[6] == 0
    assert ours[7] == float("inf")
    assert ours[8].isnan()


def test_gradients() -> None:
    x = values(3, 40).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = values(3, 40)
    (tanh_gelu(x) * weight).sum().backward()
    (F.gelu(y, approximate="tanh") * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=TOLERANCE, rtol=1e-6)


@pytest.mark.skipif(not products.HAS_PRODUCT, reason="torch was built without oneDNN's product")
@torch.no_grad()
def test_onednns_linear_with_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen on CPUs with AVX-512; its numbers hold on all."""
    monkeypatch.setattr(products, "HAS_AVX512_PRODUCT", True)
    linear, x = nn.Linear(24, 40), values(2, 9, 24)
    torch.testing.assert_close(linear_gelu(linear, x), exact(linear(x)), atol=5e-6, rtol=1e-5)
    linear.weight *= 1.01
    assert (linear_gelu(linear, x) - exact(F.linear(x, linear.weight / 1.01, linear.bias))).abs().max() > 1e-3


@pytest.mark.parametrize("fuses", [False, True])
def test_what_stands_in_the_linears_place_is_called(monkeypatch: pytest.MonkeyPatch, fuses: bool) -> None:
    monkeypatch.setattr(products, "HAS_AVX512_PRODUCT", fuses and products.HAS_PRODUCT)
    x = values(2, 8)

    class Kept(nn.Module):
        """Returns what it holds, as a cache would."""

        def __init__(self) -> None:
            super().__init__()
            self.held = values(2, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.held

    kept = Kept()
    before = kept.held.clone()
    with torch.no_grad():
        torch.testing.assert_close(linear_gelu(kept, x), exact(before), atol=TOLERANCE, rtol=1e-6)
    assert torch.equal(kept.held, before)

    linear, seen = nn.Linear(8, 5), []
    handle = linear.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        linear_gelu(linear, x)
    handle.remove()
    assert torch.equal(seen[0], F.linear(x, linear.weight, linear.bias))

    result = linear_gelu(linear, x)
    result.sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("needed", [each for each in product((False, True), repeat=3) if any(each)])
def test_a_linear_of_it_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, needed: tuple[bool, ...], by_onednn: bool
) -> None:
    for name in ("HAS_AVX512_PRODUCT", "MKL_LEAVES_AVX512"):
        monkeypatch.setattr(products, name, by_onednn and products.HAS_PRODUCT)
    layer, x = Linear(256, 64), values(2, 48, 256)
    layer.weight.requires_grad_(needed[1])
    layer.bias.requires_grad_(needed[2])
    x.requires_grad_(needed[0])
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = gelu_linear(layer, x)
    assert sorted(kept) == sorted([x.shape, layer.weight.shape])  # and not what the GELU gave
    y = x.detach().double().requires_grad_()
    weight, bias = (each.detach().double().requires_grad_() for each in (layer.weight, layer.bias))
    expected = F.linear(F.gelu(y, approximate="tanh"), weight, bias)
    torch.testing.assert_close(made, expected.float(), atol=2e-5, rtol=1e-5)
    gradient = values(2, 48, 64)
    made.backward(gradient)
    expected.backward(gradient.double())
    for mine, theirs, needs in zip((x, layer.weight, layer.bias), (y, weight, bias), needed, strict=True):
        assert (mine.grad is not None) == needs
        if needs:
            torch.testing.assert_close(mine.grad, theirs.grad.float(), atol=5e-4, rtol=1e-5)  # type: ignore[union-attr]


def test_a_linear_that_is_not_plain_sees_the_gelu() -> None:
    """What stands in its place, a hook, and mixed precision: each gets what it would get without us."""
    x, seen = values(3, 8).requires_grad_(), []
    gelu_linear(nn.Sequential(Linear(8, 5)), x).sum().backward()
    assert x.grad is not None
    layer = Linear(8, 5)
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    gelu_linear(layer, x)
    handle.remove()
    torch.testing.assert_close(seen[0], exact(x.detach()), atol=TOLERANCE, rtol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = gelu_linear(layer, x)
    assert made.dtype == torch.bfloat16
    made.sum().backward()
    compiled = torch.compile(lambda x: gelu_linear(layer, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), gelu_linear(layer, x), atol=TOLERANCE, rtol=1e-6)


def test_compiled() -> None:
    linear, x = nn.Linear(8, 5), values(2, 8)
    compiled = torch.compile(lambda x: linear_gelu(linear, x), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), linear_gelu(linear, x), atol=TOLERANCE, rtol=1e-6)
    torch.testing.assert_close(compiled(x), linear_gelu(linear, x), atol=TOLERANCE, rtol=1e-6)
