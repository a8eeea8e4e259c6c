"""Linears by way of oneDNN against torch's own. They are chosen on some CPUs; their numbers hold on all."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch.nn import functional as F

from cogworks.extensions.attach import attach
from cogworks.extensions.lora import LoRA
from cogworks.nn import products
from cogworks.nn.linear import Linear, StackedLinear
from cogworks.nn.products import HAS_PRODUCT, linear
from helpers.operations import operations

# Sums of at most 1024 products of order one in float32, in another order.
TOLERANCE = {"atol": 3e-4, "rtol": 1e-5}
ROWS, WIDE, NARROW = 160, 1024, 32
BY_ONEDNN = "mkldnn._linear_pointwise.default"
needs_onednn = pytest.mark.skipif(not HAS_PRODUCT, reason="torch was built without oneDNN's product")


@pytest.fixture(autouse=True)
def preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU where it is the faster library."""
    monkeypatch.setattr(products, "HAS_AVX512_PRODUCT", HAS_PRODUCT)
    monkeypatch.setattr(products, "MKL_LEAVES_AVX512", HAS_PRODUCT)
    monkeypatch.setattr(products, "MKL_ON_AMD", True)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (2, 1), (2, 4), ()])
def test_few_rows(shape: tuple[int, ...], with_bias: bool) -> None:
    """Values and gradients, in the layout of `F.linear`, with the weight as the first matrix."""
    width, height = 256, 512
    given = [numbers(*shape, width), numbers(height, width), *([numbers(height)] if with_bias else [])]
    ours = [tensor.clone().requires_grad_() for tensor in given]
    exact = [tensor.double().requires_grad_() for tensor in given]
    found, expected = linear(*ours), F.linear(*exact)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected.float(), **TOLERANCE)
    direction = numbers(*expected.shape)
    found.backward(direction)
    expected.backward(direction.double())
    for tensor, reference in zip(ours, exact, strict=True):
        torch.testing.assert_close(tensor.grad, reference.grad.float(), **TOLERANCE)
    seen = operations(lambda: linear(*given))
    assert "aten.clone.default" in seen  # the turned result, which `F.linear` has not
    assert ("aten.expand.default" in seen) == (expected.numel() == height)


def test_few_rows_of_nothing_of_a_small_weight_or_of_another_dtype_are_left_alone() -> None:
    for x, weight in (
        (numbers(0, 256), numbers(512, 256)),
        (numbers(2, 16), numbers(16, 16)),
        (numbers(2, 256).bfloat16(), numbers(512, 256).bfloat16()),
        (numbers(9, 256), numbers(512, 256)[:300]),
    ):
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=0, atol=0)


@needs_onednn
@pytest.mark.parametrize(("width", "height"), [(WIDE, NARROW), (NARROW, WIDE), (256, 256)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(ROWS,), (2, ROWS // 2)])
@torch.no_grad()
def test_values(shape: tuple[int, ...], with_bias: bool, width: int, height: int) -> None:
    x, weight, bias = numbers(*shape, width), numbers(height, width), numbers(height) if with_bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double()).float()
    torch.testing.assert_close(linear(x, weight, bias), exact, **TOLERANCE)
    turned = weight.t().contiguous().t()
    torch.testing.assert_close(linear(x, turned, bias), exact, **TOLERANCE)
    assert BY_ONEDNN in operations(lambda: linear(x, weight, bias))


@needs_onednn
@pytest.mark.parametrize("needed", [each for each in product((False, True), repeat=3) if any(each)])
@pytest.mark.parametrize("size", [(WIDE, NARROW), (NARROW, WIDE)])
@pytest.mark.parametrize("kind", ["dense", "expanded", "transposed"])
def test_gradients(kind: str, size: tuple[int, int], needed: tuple[bool, ...]) -> None:
    width, height = size
    given = numbers(2, ROWS // 2, width), numbers(height, width), numbers(height)
    gradient = {
        "dense": numbers(2, ROWS // 2, height),
        "expanded": numbers(1, 1, height).expand(2, ROWS // 2, height),
        "transposed": numbers(2, height, ROWS // 2).mT,
    }[kind]
    ours = [t.clone().requires_grad_(needs) for t, needs in zip(given, needed, strict=True)]
    exact = [t.double().requires_grad_(needs) for t, needs in zip(given, needed, strict=True)]
    linear(*ours).backward(gradient)
    F.linear(*exact).backward(gradient.double())
    for mine, theirs in zip(ours, exact, strict=True):
        if theirs.grad is None:
            assert mine.grad is None
        else:
            assert mine.grad is not None
            assert mine.grad.is_contiguous()
            torch.testing.assert_close(mine.grad, theirs.grad.float(), atol=1e-3, rtol=1e-5)


@needs_onednn
def test_no_product_of_the_backward_pass_is_left_to_torch() -> None:
    x, layer = numbers(ROWS, WIDE).requires_grad_(), Linear(WIDE, NARROW)
    made = layer(x).square().sum()
    names = operations(made.backward)
    assert names.count(BY_ONEDNN) == 2
    assert not {"aten.mm.default", "aten.addmm.default"} & set(names)


@needs_onednn
def test_wide_gradients_are_not_copied_for_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that oneDNN would copy a factor of is torch's; the other is not."""
    monkeypatch.setattr(products, "_COPY", ROWS * NARROW - 1)
    x, layer = numbers(ROWS, WIDE).requires_grad_(), Linear(WIDE, NARROW)
    gradient = numbers(ROWS, NARROW)
    made = layer(x)
    names = operations(lambda: made.backward(gradient))
    assert (names.count(BY_ONEDNN), names.count("aten.mm.default")) == (1, 1)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, gradient.t() @ x.detach(), atol=1e-3, rtol=1e-5)


@torch.no_grad()
def test_what_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products, which cost more to prepare; rows with gaps between them; dtypes that oneDNN is not asked for."""
    x, weight, bias = numbers(ROWS, WIDE), numbers(NARROW, WIDE), numbers(NARROW)
    with_gaps = numbers(ROWS, 2 * WIDE)[:, :WIDE]
    for tokens in (x[:4], with_gaps):
        names = operations(lambda tokens=tokens: linear(tokens, weight, bias))  # type: ignore[misc]
        assert "aten.addmm.default" in names
        assert BY_ONEDNN not in names
    for dtype in (torch.float64, torch.bfloat16):
        given = x.to(dtype), weight.to(dtype), bias.to(dtype)
        assert torch.equal(linear(*given), F.linear(*given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    meta = linear(x.to("meta"), weight.to("meta"), bias.to("meta"))
    assert meta.is_meta
    with torch.backends.mkldnn.flags(enabled=False):
        assert BY_ONEDNN not in operations(lambda: linear(x, weight, bias))
    monkeypatch.setattr(products, "MKL_LEAVES_AVX512", False)
    assert BY_ONEDNN not in operations(lambda: linear(x, weight, bias))


@needs_onednn
def test_tokens_are_not_kept_for_weights_that_do_not_train() -> None:
    layer, x = Linear(WIDE, NARROW).requires_grad_(False), numbers(ROWS, WIDE).requires_grad_()
    kept: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
        assert kept == [layer.weight.shape]
        layer.requires_grad_()(x)
    assert x.shape in kept


@needs_onednn
@pytest.mark.parametrize("train", [False, True])
def test_compiled(train: bool) -> None:
    layer, x = StackedLinear(256, 32, ("q", "k", "v")), numbers(2, ROWS // 2, 256)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(lambda x: F.silu(layer(x)), fullgraph=True, backend=backend)
    with torch.set_grad_enabled(train):
        made = compiled(x)
        torch.testing.assert_close(made, F.silu(layer(x)), **TOLERANCE)
    assert "cogworks.linear" in seen
    if train:
        expected = torch.autograd.grad(F.silu(F.linear(x, layer.weight, layer.bias)).sum(), layer.parameters())
        found = torch.autograd.grad(made.sum(), layer.parameters())
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-5)


@needs_onednn
def test_the_operation_keeps_torchs_rules() -> None:
    given = [t.requires_grad_() for t in (numbers(3, 8), numbers(5, 8), numbers(5))]
    torch.library.opcheck(torch.ops.cogworks.linear.default, tuple(given))


@needs_onednn
def test_with_a_lora_on_it() -> None:
    """Attached, merged, and trained: what `F.linear` gives in the same places."""
    network = nn.Sequential(Linear(256, 256))
    attach(network, LoRA(rank=4, targets=("0",)))
    adapter, x = network[0], numbers(ROWS, 256)
    for parameter in adapter.parameters():
        parameter.data.copy_(numbers(*parameter.shape))
    exact = F.linear(x, adapter._total(), adapter.bias)  # type: ignore[operator, union-attr]
    tolerance = {"atol": 2e-2, "rtol": 1e-5}  # the factors are of order one: values of some hundreds
    torch.testing.assert_close(network(x), exact, **tolerance)
    with torch.no_grad():
        assert BY_ONEDNN in operations(lambda: network(x))
        adapter.merge()  # type: ignore[operator]
        assert BY_ONEDNN in operations(lambda: network(x))
        torch.testing.assert_close(network(x), exact, **tolerance)


def test_who_made_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 2\n")
    assert "AuthenticAMD" in products._cpu_maker()
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\n")  # as on Arm
    assert products._cpu_maker() == ""

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD")
    assert "AuthenticAMD" in products._cpu_maker()
