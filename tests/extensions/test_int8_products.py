"""Products of 8-bit tokens and weights: exact sums, how near the result is, what stays, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.errors import ExtensionError
from cogworks.extensions import int8_products
from cogworks.extensions.attach import attach
from cogworks.extensions.int8 import BLOCK_LINEARS, Int8Linear, Int8Weights, quantize_linears, quantize_rows
from cogworks.extensions.int8_products import (
    Int8ProductLinear,
    Int8Products,
    multiply,
    quantize_tokens,
    rescale,
    why_not_integers,
)
from cogworks.extensions.lora import StoredLoRA
from cogworks.models.transformer import Transformer
from helpers.lora_factors import attention_pairs, inputs, small_transformer

SHAPES = [(1, 1, 1), (1, 7, 5), (3, 40, 24), (17, 65, 33), (226, 64, 48)]  # tokens, width, rows
BOTH = pytest.mark.parametrize("integers", [True, False])


def tokens(num: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Tokens of very different size."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num, width, generator=generator) * torch.logspace(-2, 3, num)[:, None]).to(dtype)


def linear_pair(width: int, rows: int, *, integers: bool, bias: bool = True) -> tuple[nn.Linear, Int8ProductLinear]:
    torch.manual_seed(2)
    linear = nn.Linear(width, rows, bias=bias)
    held = Int8ProductLinear("up", linear)
    held.integers = integers
    return linear, held


def int8(num: int, width: int, seed: int) -> Tensor:
    return torch.randint(-127, 128, (num, width), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_products_are_exact(integers: bool, shape: tuple[int, int, int]) -> None:
    num, width, rows = shape
    a, b = int8(num, width, 1), int8(rows, width, 2)
    assert torch.equal(multiply(a, b, integers=integers).long(), a.long() @ b.long().t())


@BOTH
@pytest.mark.parametrize("width", [64, 1000, 1040])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_sums_of_the_largest_products_are_exact(integers: bool, width: int, signs: tuple[int, int]) -> None:
    """Where pairs of products are added in 16 bits, as on CPUs without the units, these are wrong."""
    a = torch.full((20, width), 127 * signs[0], dtype=torch.int8)
    b = torch.full((24, width), 127 * signs[1], dtype=torch.int8)
    a[1, ::2] *= -1
    assert torch.equal(multiply(a, b, integers=integers).long(), a.long() @ b.long().t())


def test_beyond_24_bits_float32_rounds_and_integers_do_not() -> None:
    width = 3 * 2**10 + 1
    a, b = torch.full((2, width), 127, dtype=torch.int8), torch.full((3, width), 127, dtype=torch.int8)
    exact = torch.full((2, 3), width * 127**2)
    assert torch.equal(multiply(a, b, integers=True).long(), exact)
    rounded = multiply(a, b, integers=False).double()
    torch.testing.assert_close(rounded, exact.double(), rtol=width * 2**-24, atol=0)


@BOTH
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_error_is_within_half_a_step_of_each_factor(
    integers: bool, bias: bool, shape: tuple[int, int, int]
) -> None:
    """|y' - y| <= s/2 sum |W'| + r/2 sum |x|, for each token and each row."""
    num, width, rows = shape
    linear, held = linear_pair(width, rows, integers=integers, bias=bias)
    x = tokens(num, width)
    error = (held(x) - F.linear(x.double(), linear.weight.double(), None if not bias else linear.bias.double())).abs()
    _, s = quantize_tokens(x)
    bound = s[:, None] / 2 * held.weight.abs().sum(1) + x.abs().sum(1)[:, None] * held.weight_scale / 2
    # 1e-5: float32's rounding of scales and sums, and of the bias beside them.
    slack = 1e-5 * (bound + 0 if not bias else bound + linear.bias.abs())
    assert (error <= bound + slack).all()


@torch.no_grad()
def test_one_scale_for_all_tokens_would_be_far_worse() -> None:
    """Negative control: the bound of the test above fails for a scale that tokens share."""
    x = tokens(40, 64)
    linear, held = linear_pair(64, 48, integers=False)
    shared = x.abs().max() / 127
    values = (x / shared).round()
    y = F.linear(values * shared, held.weight, linear.bias)
    _, s = quantize_tokens(x)
    bound = s[:, None] / 2 * held.weight.abs().sum(1) + x.abs().sum(1)[:, None] * held.weight_scale / 2
    assert not ((y - linear(x)).abs() <= bound * 1.01 + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_integers_and_float32_agree_bitwise_where_sums_are_small(dtype: torch.dtype, bias: bool) -> None:
    _, held = linear_pair(48, 40, integers=True, bias=bias)
    held.to(dtype)
    x = tokens(3 * 19, 48).to(dtype).unflatten(0, (3, 19))
    exact = held(x)
    held.integers = False
    assert exact.shape == (3, 19, 40)
    assert exact.dtype == dtype
    assert torch.equal(held(x), exact)


@BOTH
@torch.no_grad()
def test_a_token_gives_the_same_alone_and_among_others(integers: bool) -> None:
    _, held = linear_pair(40, 24, integers=integers)
    x = tokens(50, 40)
    together = held(x)
    assert torch.equal(held(x[7]), together[7])  # one vector
    assert torch.equal(held(x[20:21]), together[20:21])
    assert torch.equal(held(x.view(2, 5, 5, 40)), together.view(2, 5, 5, 24))
    assert torch.equal(held(x.t().contiguous().t()), together)  # another layout in memory
    assert held(x[:0]).shape == (0, 24)


@torch.no_grad()
def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    _, held = linear_pair(40, 24, integers=False)
    x = tokens(50, 40)
    whole = held(x)
    monkeypatch.setattr(int8_products, "_PIECE", 7 * 40)
    assert len(int8_products._pieces(x)) == 8
    assert torch.equal(held(x), whole)
    assert all(map(torch.equal, quantize_tokens(x), quantize_rows(x)))


@BOTH
@torch.no_grad()
def test_zeros_give_the_bias_and_outliers_stay_their_own(integers: bool) -> None:
    linear, held = linear_pair(40, 24, integers=integers)
    x = tokens(6, 40)
    plain = held(x)
    x[2] = 0
    x[4, 3] = 1e30
    mixed = held(x)
    assert torch.equal(mixed[2], linear.bias)
    others = [0, 1, 3, 5]
    assert torch.equal(mixed[others], plain[others])
    outlier = 1e30 * linear.weight[:, 3].double()  # beside it the rest of the token is nothing
    torch.testing.assert_close(mixed[4].double(), outlier, rtol=0, atol=1e30 * float(held.weight_scale.max()))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@torch.no_grad()
def test_what_is_not_finite_stays_so_and_in_its_token(wrong: float) -> None:
    _, held = linear_pair(40, 24, integers=False)
    x = tokens(6, 40)
    x[2, 5] = wrong
    y = held(x)
    assert not y[2].isfinite().any()
    assert y[[0, 1, 3, 4, 5]].isfinite().all()


def test_rescaling_is_one_formula() -> None:
    sums = torch.randint(-(2**20), 2**20, (5, 4), dtype=torch.int32)
    s, r, bias = torch.rand(5), torch.rand(4), torch.randn(4)
    expected = sums.double() * s[:, None] * r + bias
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 1e-2), (torch.float32, 1e-6)):
        for given in (sums.clone(), sums.float()):
            result = rescale(given, s, r, bias, dtype)
            assert result.dtype == dtype
            torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(rescale(sums, s, r, None, torch.float32).double(), expected - bias, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_under_autocast_it_takes_its_dtype_and_keeps_its_sums() -> None:
    _, held = linear_pair(48, 40, integers=False)
    x = tokens(9, 48)
    with torch.autocast("cpu", torch.bfloat16):
        ours = held(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, held(x.bfloat16()))


@torch.no_grad()
def test_a_transformer_in_8_bits_is_near_and_no_more() -> None:
    network = small_transformer()
    exact = network(*inputs())
    with attach(network, Int8Products()):
        ours = network(*inputs())
    with attach(network, Int8Weights()):
        weights_alone = network(*inputs())
    error, less = (float((each - exact).norm() / exact.norm()) for each in (ours, weights_alone))
    assert less < error < 0.05, (less, error)
    assert torch.equal(network(*inputs()), exact)


@torch.no_grad()
def test_detaching_restores_bitwise_and_keys_stay() -> None:
    network = small_transformer()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with attach(network, Int8Products()):
        state = network.state_dict()
        assert {key.rsplit(".", 1)[1] for key in state.keys() - before.keys()} == {"weight_scale"}
        assert before.keys() <= state.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@torch.no_grad()
def test_it_holds_what_int8_weights_hold() -> None:
    network, other = small_transformer(), small_transformer()
    assert quantize_linears(network, extension=Int8Products) == quantize_linears(other)
    found = [module for module in network.modules() if isinstance(module, Int8ProductLinear)]
    assert len(found) == len(BLOCK_LINEARS) * len(network.blocks)
    ours, theirs = network.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    plain = small_transformer(seed=5)
    plain.load_state_dict(small_transformer().state_dict())
    quantize_linears(plain, extension=Int8Products)
    assert torch.equal(plain(*inputs()), network(*inputs()))


@torch.no_grad()
def test_a_lora_goes_outside() -> None:
    network = small_transformer()
    pairs = attention_pairs(network, alpha=40.0)
    bare = copy.deepcopy(network)
    quantize_linears(network, extension=Int8Products)
    with pytest.raises(ExtensionError, match="Int8ProductLinear is attached there already"):
        attach(network, Int8Weights())
    without = network(*inputs())
    with attach(network, StoredLoRA(pairs)):
        changed = network(*inputs())
        assert isinstance(network.blocks[0].attention.out.inner, Int8ProductLinear)
    assert torch.equal(network(*inputs()), without)
    with attach(bare, StoredLoRA(pairs)):
        expected = bare(*inputs())
    assert float((changed - expected).norm() / expected.norm()) < 0.05
    assert float((without - expected).norm() / expected.norm()) > 0.1  # negative control: the LoRA is no rounding


def test_gradients_are_refused_with_advice() -> None:
    _, held = linear_pair(40, 24, integers=False)
    for x in (tokens(3, 40), tokens(3, 40).requires_grad_()):
        with pytest.raises(ExtensionError, match=r"no gradient: call the network under torch.no_grad\(\), or"):
            held(x)
    held.requires_grad_(False)
    assert held(tokens(3, 40)).shape == (3, 24)
    with torch.no_grad():
        held(tokens(3, 40).requires_grad_())


@BOTH
@torch.no_grad()
def test_compiled_it_needs_no_graph_break(integers: bool) -> None:
    _, held = linear_pair(40, 24, integers=integers)
    x = tokens(2 * 30, 40).view(2, 30, 40)
    compiled = torch.compile(held, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), held(x))


def test_on_meta_it_has_shapes() -> None:
    with torch.device("meta"):
        network = Transformer(small_transformer().config)
    quantize_linears(network, extension=Int8Products)
    linear = network.blocks[0].mlp.up
    assert isinstance(linear, Int8Linear)
    with torch.no_grad():
        for linear.integers in (True, False):
            assert linear(torch.empty(2, 5, linear.linear.in_features, device="meta")).shape[-1] == len(
                linear.weight_scale
            )


@pytest.fixture
def asked_anew() -> Iterator[None]:
    why_not_integers.cache_clear()
    yield
    why_not_integers.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        ({"avx512_vnni": True}, None),
        ({"amx_int8": True}, None),
        ({"avx_vnni": True, "avx512_vnni": False}, None),
        ({"avx2": True, "avx512_f": True, "avx512_vnni": False}, "VNNI or AMX"),
        ({}, "VNNI or AMX"),
    ],
)
def test_integers_are_for_cpus_with_units(
    capabilities: dict[str, bool], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    reason = why_not_integers("cpu")
    assert reason is None if words is None else words in str(reason)
    assert Int8ProductLinear("up", nn.Linear(4, 4)).integers == (words is None)
    assert "CPUs alone" in str(why_not_integers("cuda"))


@pytest.mark.usefixtures("asked_anew")
def test_what_torch_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert "VNNI" in str(why_not_integers("cpu"))  # what cannot be asked is not there
    why_not_integers.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "oneDNN" in str(why_not_integers("cpu"))
    why_not_integers.cache_clear()
    monkeypatch.delattr(torch, "_int_mm")
    assert "torch._int_mm" in str(why_not_integers("cpu"))
    with torch.no_grad():
        assert Int8ProductLinear("up", nn.Linear(4, 3))(torch.ones(2, 4)).shape == (2, 3)
