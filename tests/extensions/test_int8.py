"""Weights in 8 bits: how near they are, how a LoRA trains on them, what is kept, what is refused."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import attach
from cogworks.extensions.int8 import (
    BLOCK_LINEARS,
    Int8Linear,
    Int8Weights,
    dequantize_rows,
    quantize_linears,
    quantize_rows,
)
from cogworks.extensions.lora import LoRA, StoredLoRA, lora_parameters, merge
from cogworks.models.transformer import Transformer
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank
from helpers.lora_factors import attention_pairs, inputs, small_transformer

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(rows: int = 24, columns: int = 40, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(-4, 3, rows)[:, None]  # rows of very different size
    return (torch.randn(rows, columns, generator=generator) * spread).to(dtype)


@torch.no_grad()
def with_rounded_weights(network: Transformer) -> Transformer:
    """The plain network whose weights are those that 8 bits hold."""
    rounded = copy.deepcopy(network)
    for path, module in rounded.named_modules():
        if path.startswith("blocks.") and isinstance(module, nn.Linear):
            module.weight.copy_(dequantize_rows(*quantize_rows(module.weight), module.weight.dtype))
    return rounded


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_is_within_half_a_step_of_its_row(dtype: torch.dtype) -> None:
    exact = weight(dtype=dtype).clamp(-6e4, 6e4)
    values, scale = quantize_rows(exact)
    error = (dequantize_rows(values, scale, torch.float32) - exact.float()).abs()
    assert values.dtype == torch.int8
    assert values.abs().max() == 127
    # The rounding of the scale itself moves a value by a few units in the last place more.
    assert (error <= exact.float().abs().amax(dim=1, keepdim=True) / 254 * (1 + 1e-5)).all()


def test_one_scale_for_all_rows_would_be_far_worse() -> None:
    """Negative control: the bound of the test above fails for a scale that rows share."""
    exact = weight()
    shared = exact.abs().max() / 127
    error = ((exact / shared).round() * shared - exact).abs()
    assert not (error <= exact.abs().amax(dim=1, keepdim=True) / 254 * (1 + 1e-5)).all()


def test_quantizing_again_gives_the_same_values() -> None:
    values, _ = quantize_rows(weight())
    again, _ = quantize_rows(dequantize_rows(values, quantize_rows(weight())[1], torch.float32))
    assert torch.equal(values, again)


def test_a_row_of_zeros_stays_zero() -> None:
    values, scale = quantize_rows(torch.zeros(3, 8))
    assert torch.equal(dequantize_rows(values, scale, torch.float32), torch.zeros(3, 8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_input_gradient_are_bitwise_those_of_the_rounded_weight(dtype: torch.dtype, bias: bool) -> None:
    linear = nn.Linear(40, 24, bias=bias, dtype=dtype)
    held = Int8Linear("up", linear)
    plain = dequantize_rows(*quantize_rows(linear.weight), dtype)
    x, theirs = (torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(1)).to(dtype) for _ in range(2))
    x.requires_grad_()
    theirs.requires_grad_()
    ours, expected = held(x), F.linear(theirs, plain, linear.bias)
    assert torch.equal(ours, expected)
    factor = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    (ours * factor).sum().backward()
    (expected * factor).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, theirs.grad, atol=0, rtol=0)


def test_the_gradient_of_a_bias_in_training_is_that_of_the_linear() -> None:
    linear = nn.Linear(8, 6)
    held, x = Int8Linear("up", copy.deepcopy(linear)), torch.randn(2, 3, 8)
    held(x).square().sum().backward()
    with torch.no_grad():
        linear.weight.copy_(dequantize_rows(*quantize_rows(linear.weight), torch.float32))
    linear(x).square().sum().backward()
    assert held.bias is not None
    torch.testing.assert_close(held.bias.grad, linear.bias.grad, atol=1e-5, rtol=1e-5)


def test_gradients_pass_a_numerical_check() -> None:
    held = Int8Linear("up", nn.Linear(5, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(held, (torch.randn(3, 5, dtype=torch.float64, requires_grad=True),))


def test_the_backward_pass_keeps_no_float_weight() -> None:
    kept: list[Tensor] = []
    held = Int8Linear("up", nn.Linear(40, 24))
    x = torch.randn(2, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        held(x)
    assert not [t.shape for t in kept if t.is_floating_point() and t.ndim == 2]


@torch.no_grad()
def test_under_autocast_it_computes_in_the_dtype_of_autocast() -> None:
    held = Int8Linear("up", nn.Linear(40, 24))
    x = torch.randn(2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        ours = held(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, held(x.bfloat16()))


@torch.no_grad()
def test_a_transformer_computes_with_the_rounded_weights() -> None:
    network = small_transformer()
    exact, expected = network(*inputs()), with_rounded_weights(network)(*inputs())
    with attach(network, Int8Weights()):
        ours = network(*inputs())
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    error = float((ours - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.02, error  # a half step of each row is 0.2 to 0.6 % of a normal weight


@torch.no_grad()
def test_detaching_restores_bitwise_and_dropping_the_handle_frees_the_weights() -> None:
    network = small_transformer()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    handle = attach(network, Int8Weights())
    handle.detach()
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    floats = weakref.ref(network.blocks[0].mlp.up)
    handle = attach(network, Int8Weights())
    assert floats() is not None
    del handle
    gc.collect()
    assert floats() is None


@torch.no_grad()
def test_quantize_linears_lets_a_weight_go_before_it_takes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_transformer()
    floats = [weakref.ref(network.get_submodule(path)) for path in ("blocks.0.attention.qkv", "blocks.1.attention.qkv")]
    alive: list[int] = []

    def watched(held: Tensor, of: Callable[[Tensor], tuple[Tensor, Tensor]] = quantize_rows) -> tuple[Tensor, Tensor]:
        alive.append(sum(ref() is not None for ref in floats))
        return of(held)

    monkeypatch.setattr("cogworks.extensions.int8.quantize_rows", watched)
    quantize_linears(network)
    held = [path for path, module in network.named_modules() if isinstance(module, Int8Linear)]
    assert len(held) == len(BLOCK_LINEARS) * len(network.blocks)
    assert alive[0] == 2
    assert alive[2] == 0  # when the linears of the second pattern come, those of the first are gone


def test_keys_stay_and_the_state_round_trips() -> None:
    network, other = small_transformer(), small_transformer(seed=5)
    keys = set(network.state_dict())
    quantize_linears(network)
    quantize_linears(other)
    state = network.state_dict()
    assert keys <= state.keys()
    assert {key.rsplit(".", 1)[1] for key in state.keys() - keys} == {"weight_scale"}
    assert state["blocks.0.mlp.up.weight"].dtype == torch.int8
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other(*inputs()), network(*inputs()))


def test_a_state_of_float_weights_is_brought_to_8_bits() -> None:
    network, floats = small_transformer(), small_transformer(seed=5)
    quantize_linears(network)
    network.load_state_dict(floats.state_dict())
    quantize_linears(floats)
    with torch.no_grad():
        assert torch.equal(network(*inputs()), floats(*inputs()))


def test_casting_the_network_leaves_the_scale_as_it_is() -> None:
    network = small_transformer()
    quantize_linears(network)
    held = network.blocks[0].mlp.up
    scale = held.weight_scale.clone()
    network.to(torch.bfloat16)
    assert held.weight.dtype == torch.bfloat16
    assert held.weight_scale.dtype == torch.float32
    assert torch.equal(held.weight_scale, scale)
    assert held.linear.weight.dtype == torch.int8


def lora_gradients(network: Transformer, pairs: tuple[LowRank, ...]) -> dict[str, Tensor]:
    network.requires_grad_(False)
    attach(network, StoredLoRA(pairs, trainable=True))
    latents, timesteps, text = inputs()
    latents = latents.clone().requires_grad_()
    network(latents, timesteps, text).square().mean().backward()
    assert latents.grad is not None
    found = {"latents": latents.grad}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            found[name.replace("inner.", "")] = parameter.grad
    return found


@pytest.mark.parametrize("broken", [False, True])
def test_a_lora_gets_the_gradients_of_the_rounded_weights(broken: bool) -> None:
    network = small_transformer()
    pairs = attention_pairs(network)
    expected = lora_gradients(with_rounded_weights(network) if not broken else copy.deepcopy(network), pairs)
    quantize_linears(network)
    found = lora_gradients(network, pairs)
    assert found.keys() == expected.keys()
    assert len(found) > 8
    # float32, two blocks; a plain network with other weights, the exact ones, is a thousand times further off.
    distances = [float((found[key] - expected[key]).norm() / expected[key].norm()) for key in found]
    assert max(distances) > 1e-3 if broken else max(distances) < 1e-6, distances


def test_a_lora_on_8_bits_learns_and_leaves_the_base_alone() -> None:
    network = small_transformer()
    quantize_linears(network)
    network.requires_grad_(False)
    attach(network, LoRA(rank=2))
    base = {key: tensor.clone() for key, tensor in network.state_dict().items() if "lora" not in key}
    with torch.no_grad():
        target = network(*inputs()) * 0.5
    optimizer = torch.optim.AdamW(lora_parameters(network), lr=5e-2)
    losses = []
    for _ in range(8):
        loss = F.mse_loss(network(*inputs()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0], losses
    assert all(torch.equal(tensor, base[key]) for key, tensor in network.state_dict().items() if key in base)


def test_compiled_blocks_need_no_graph_break() -> None:
    held = Int8Linear("up", nn.Linear(8, 6))
    x = torch.randn(2, 8, requires_grad=True)
    compiled = torch.compile(held, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), held(x), atol=0, rtol=0)


def test_row_blocks_keep_their_names() -> None:
    network = small_transformer()
    attach(network, Int8Weights(), LoRA(rank=2, targets=("blocks.*.attention.qkv:q",)))
    inside = network.blocks[0].attention.qkv.inner.linear
    assert isinstance(inside, StackedLinear)
    assert inside.names == ("q", "k", "v")


def test_merging_is_refused() -> None:
    network = small_transformer()
    attach(network, Int8Weights(), StoredLoRA(attention_pairs(network)))
    with pytest.raises(ExtensionError, match="holds a Int8Linear: LoRA merges into plain weights alone"):
        merge(network)


def test_it_goes_inside_a_lora_and_only_once() -> None:
    network = small_transformer()
    with attach(network, LoRA(rank=2)), pytest.raises(ExtensionError, match="attach both in one call"):
        attach(network, Int8Weights())
    quantize_linears(network)
    with pytest.raises(ExtensionError, match="Int8Linear is attached there already"):
        quantize_linears(network)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("blocks.*.mlp.upp",), r"no module at 'blocks.\*.mlp.upp'; near it are blocks.\*.mlp"),
        (("blocks.0.norm1",), "blocks.0.norm1 is a LayerNorm: only the weights of plain linears"),
    ],
)
def test_what_is_no_linear_is_refused(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ExtensionError, match=message):
        attach(small_transformer(), Int8Weights(targets))


def test_values_that_are_not_finite_are_refused() -> None:
    network = small_transformer()
    with torch.no_grad():
        network.blocks[1].mlp.up.weight[0, 0] = float("nan")
    with pytest.raises(ExtensionError, match=r"blocks.1.mlp.up cannot go to 8 bits: .* not finite"):
        quantize_linears(network)


def test_a_network_without_values_is_held_alike() -> None:
    with torch.device("meta"):
        network = Transformer(small_transformer().config)
    quantize_linears(network)
    held = network.blocks[0].mlp.up
    assert (held.linear.weight.dtype, held.linear.weight.device.type) == (torch.int8, "meta")
    assert held.weight_scale.shape == (held.linear.out_features,)


def test_the_linears_of_the_blocks_take_a_quarter_of_the_memory() -> None:
    def num_bytes(network: Transformer) -> int:
        return sum(parameter.nbytes for parameter in network.blocks.parameters() if parameter.ndim == 2)

    network = small_transformer()
    before = num_bytes(network)
    quantize_linears(network)
    assert num_bytes(network) == before / 4
