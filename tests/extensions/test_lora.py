"""LoRA on a transformer: what it computes, how it trains, what it refuses.

Parity with PEFT is in tests/weights/test_lora_peft.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cogworks.extensions.attach import attach
from cogworks.extensions.kernels import AttentionKernel
from cogworks.extensions.lora import LoRA, StoredLoRA, lora_names, lora_pairs, lora_parameters, rescale
from cogworks.models.transformer import Transformer
from cogworks.nn.low_rank import LowRank
from helpers.golden_weights import load_golden, load_golden_transformer
from helpers.lora_factors import attention_pairs, inputs, random_pair, small_transformer

GOLDEN_TOLERANCE = 1e-5  # of tests/golden/cogvideox_sat/README.md
TOLERANCE = 1e-5  # float32, two blocks, outputs up to 3: another order of summation


def golden_pairs(alpha: float = 1.0) -> tuple[LowRank, ...]:
    arrays = load_golden("lora_t2v_rope_r4")
    pairs = []
    for layer in range(3):
        theirs, ours = f"lora.transformer.layers.{layer}.attention", f"blocks.{layer}.attention"
        for part, rows in enumerate((("q",), ("k",), ("v",))):
            a, b = (arrays[f"{theirs}.query_key_value.matrix_{side}.{part}"] for side in "AB")
            pairs.append(LowRank(f"{ours}.qkv", rows, a, b, alpha))
        a, b = (arrays[f"{theirs}.dense.matrix_{side}.0"] for side in "AB")
        pairs.append(LowRank(f"{ours}.out", (), a, b, alpha))
    return tuple(pairs)


@torch.no_grad()
def run_golden(network: Transformer) -> Tensor:
    io = load_golden("dit_t2v_rope.io")
    return network(io["in.x"].transpose(1, 2), io["in.timesteps"], io["in.context"]).transpose(1, 2)


def test_sat_golden() -> None:
    network, arrays = load_golden_transformer("t2v_rope"), load_golden("lora_t2v_rope_r4")
    with attach(network, StoredLoRA(golden_pairs())):
        torch.testing.assert_close(run_golden(network), arrays["out.output_with_lora"], atol=GOLDEN_TOLERANCE, rtol=0)
    torch.testing.assert_close(run_golden(network), arrays["out.output_base"], atol=GOLDEN_TOLERANCE, rtol=0)


@pytest.mark.parametrize("wrong", ["alpha", "rows", "scale"])
def test_the_golden_comparison_fails_when_something_is_wrong(wrong: str) -> None:
    pairs = golden_pairs(alpha=4.0 if wrong == "alpha" else 1.0)
    if wrong == "rows":
        order = {("q",): ("k",), ("k",): ("q",)}
        pairs = tuple(LowRank(p.path, order.get(p.rows, p.rows), p.lora_a, p.lora_b, p.alpha) for p in pairs)
    network = load_golden_transformer("t2v_rope")
    with attach(network, StoredLoRA(pairs, scale=0.99 if wrong == "scale" else 1.0)):
        off = (run_golden(network) - load_golden("lora_t2v_rope_r4")["out.output_with_lora"]).abs().max()
    assert off > 100 * GOLDEN_TOLERANCE


@torch.no_grad()
def test_a_linear_gets_scale_times_alpha_over_rank() -> None:
    network = small_transformer()
    pair = random_pair(network, "blocks.1.mlp.up", rank=4, alpha=6.0)
    x = torch.randn(3, 5, network.config.width)
    plain = network.blocks[1].mlp.up(x)
    with attach(network, StoredLoRA((pair,), scale=0.5)):
        torch.testing.assert_close(
            network.blocks[1].mlp.up(x), plain + 0.5 * (6 / 4) * x @ pair.lora_a.T @ pair.lora_b.T, atol=1e-6, rtol=1e-5
        )


@torch.no_grad()
def test_row_blocks_that_are_not_named_stay_bitwise() -> None:
    network = small_transformer()
    stacked = network.modulations[0]
    rows = ("video_shift_mlp", "text_gate_attention")  # neither beside each other nor in the order of one half
    pair = random_pair(network, "modulations.0", rows)
    x = torch.randn(2, 1, network.config.time_width)
    plain = stacked(x)
    with attach(network, StoredLoRA((pair,))):
        changed = network.modulations[0](x)
    delta = pair.strength * x @ pair.lora_a.T @ pair.lora_b.T
    for name in stacked.names:
        part = stacked.rows(name)
        if name in rows:
            torch.testing.assert_close(
                changed[..., part], plain[..., part] + delta.chunk(2, dim=-1)[rows.index(name)], atol=1e-6, rtol=1e-5
            )
        else:
            assert torch.equal(changed[..., part], plain[..., part])


@torch.no_grad()
def test_a_new_lora_changes_nothing() -> None:
    network = small_transformer()
    plain = network(*inputs())
    with attach(network, LoRA(rank=4)):
        assert torch.equal(network(*inputs()), plain)


def test_a_new_lora_has_a_pair_for_each_row_block() -> None:
    network = small_transformer()
    with attach(network, LoRA(rank=4, alpha=8, targets=("blocks.*.attention.qkv", "blocks.0.mlp.*"))):
        pairs = {pair.target: pair for pair in lora_pairs(network, "default")}
    blocks = [f"blocks.{layer}.attention.qkv:{name}" for layer in range(2) for name in "qkv"]
    assert set(pairs) == {*blocks, "blocks.0.mlp.up", "blocks.0.mlp.down"}
    width = network.config.width
    assert pairs[blocks[0]].lora_a.shape == (4, width)
    assert pairs["blocks.0.mlp.up"].lora_b.shape == (4 * width, 4)
    for pair in pairs.values():
        assert pair.strength == 2
        assert not pair.lora_b.any()
        bound = pair.lora_a.shape[1] ** -0.5
        assert 0.9 * bound < pair.lora_a.abs().max() <= bound


def test_a_new_lora_is_drawn_from_its_seed_name_and_target_alone() -> None:
    def drawn(seed: int = 3, name: str = "x", targets: tuple[str, ...] = ("blocks.*.attention.qkv",)) -> Tensor:
        network = small_transformer()
        with attach(network, LoRA(rank=2, seed=seed, name=name, targets=targets)):
            return next(p.lora_a for p in lora_pairs(network, name) if p.target == "blocks.1.attention.qkv:k")

    assert torch.equal(drawn(), drawn(targets=("blocks.1.attention.qk*:k",)))
    assert not torch.equal(drawn(), drawn(seed=4))
    assert not torch.equal(drawn(), drawn(name="y"))
    network = small_transformer()
    with attach(network, LoRA(rank=2)):
        parts = [pair.lora_a for pair in lora_pairs(network, "default")]
    assert all(not torch.equal(parts[0], other) for other in parts[1:])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_moves_the_factors_and_nothing_else(dropout: float) -> None:
    network = small_transformer().train().requires_grad_(False)
    before = {name: p.clone() for name, p in network.named_parameters()}
    target = torch.randn_like(network(*inputs()))
    with attach(network, LoRA(rank=4, dropout=dropout)):
        optimizer = torch.optim.Adam(lora_parameters(network), lr=1e-2)
        assert len(optimizer.param_groups[0]["params"]) == 2 * 2 * 4  # two factors, two layers, q k v and out
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = (network(*inputs()) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert all(pair.lora_b.any() for pair in lora_pairs(network, "default"))
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.named_parameters())


def test_gradients_are_those_of_the_formula() -> None:
    network = small_transformer().requires_grad_(False).double()
    pair = random_pair(network, "blocks.0.attention.qkv", ("k",), dtype=torch.float64)
    x = torch.randn(4, network.config.width, dtype=torch.float64)
    weights = torch.randn(4, 3 * network.config.width, dtype=torch.float64)
    a, b = (t.clone().requires_grad_() for t in (pair.lora_a, pair.lora_b))
    stacked = network.blocks[0].attention.qkv
    delta = torch.zeros_like(stacked.weight)
    delta[stacked.rows("k")] = 0.7 * pair.strength * (b @ a)
    (torch.nn.functional.linear(x, stacked.weight + delta, stacked.bias) * weights).sum().backward()
    with attach(network, StoredLoRA((pair,), scale=0.7, trainable=True)):
        (network.blocks[0].attention.qkv(x) * weights).sum().backward()
        found = lora_parameters(network)
    # The scale is held in float32.
    torch.testing.assert_close(found[0].grad, a.grad, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(found[1].grad, b.grad, atol=1e-9, rtol=1e-6)


@torch.no_grad()
def test_dropout_acts_in_training_alone() -> None:
    network = small_transformer()
    with attach(network, StoredLoRA(attention_pairs(network), dropout=0.5)):
        still = network(*inputs())
        assert torch.equal(network(*inputs()), still)
        network.train()
        torch.manual_seed(0)
        first = network(*inputs())
        assert not torch.equal(first, still)
        assert not torch.equal(network(*inputs()), first)


def test_trainable_factors_are_copies() -> None:
    network = small_transformer()
    pairs = attention_pairs(network)
    kept = pairs[0].lora_a.clone()
    with attach(network, StoredLoRA(pairs, trainable=True)), torch.no_grad():
        for parameter in lora_parameters(network):
            parameter.zero_()
    assert torch.equal(pairs[0].lora_a, kept)


@torch.no_grad()
def test_several_add_up_whatever_the_order() -> None:
    network = small_transformer()
    one, two = (attention_pairs(network, seed=seed) for seed in (1, 2))
    plain = network(*inputs())
    with attach(network, StoredLoRA(one, name="one", scale=0.5), StoredLoRA(two, name="two", scale=-0.25)):
        assert lora_names(network) == ["two", "one"]  # the last is the outermost
        both = network(*inputs())
        rescale(network, "two", 0)
        alone = network(*inputs())
        rescale(network, "one", 0)
        assert torch.equal(network(*inputs()), plain)
    with attach(network, StoredLoRA(two, name="two", scale=-0.25)) as outer:
        with attach(network, StoredLoRA(one, name="one", scale=0.5)):
            torch.testing.assert_close(network(*inputs()), both, atol=TOLERANCE, rtol=0)
        outer.detach()
    with attach(network, StoredLoRA(one, name="one", scale=0.5)):
        assert torch.equal(network(*inputs()), alone)
    assert (both - alone).abs().max() > 0.01 < (alone - plain).abs().max()
    assert torch.equal(network(*inputs()), plain)


@torch.no_grad()
def test_rescaling_equals_attaching_at_that_scale() -> None:
    network = small_transformer()
    pairs = attention_pairs(network)
    with attach(network, StoredLoRA(pairs, scale=0.3)):
        expected = network(*inputs())
    with attach(network, StoredLoRA(pairs)):
        full = network(*inputs())
        rescale(network, "default", 0.3)
        assert torch.equal(network(*inputs()), expected)
    assert not torch.equal(full, expected)


@torch.no_grad()
def test_a_base_in_bfloat16_computes_in_bfloat16() -> None:
    network = small_transformer().bfloat16()
    pair = random_pair(network, "blocks.0.attention.out")
    x = torch.randn(4, network.config.width).bfloat16()
    with attach(network, StoredLoRA((pair,))):
        linear = network.blocks[0].attention.out
        assert lora_parameters(network)[0].dtype == torch.float32
        assert linear.weight.dtype == torch.bfloat16
        changed = linear(x)
        latents, timesteps, text = inputs()
        assert network(latents.bfloat16(), timesteps, text.bfloat16()).dtype == torch.bfloat16
    assert changed.dtype == torch.bfloat16
    weight = linear.weight.float() + pair.strength * pair.lora_b @ pair.lora_a
    exact = torch.nn.functional.linear(x.float(), weight, linear.bias.float())
    effect = exact - torch.nn.functional.linear(x.float(), linear.weight.float(), linear.bias.float())
    # Factors, their product and the sum are rounded to eight bits each.
    torch.testing.assert_close(changed.float(), exact, atol=4 * 2**-8, rtol=0)
    assert effect.abs().max() > 0.2


def test_base_keys_stay_and_the_state_returns() -> None:
    network = small_transformer()
    keys = set(network.state_dict())
    with attach(network, LoRA(rank=2, name="a"), LoRA(rank=2, name="b"), AttentionKernel("math")):
        with torch.no_grad():
            for number, parameter in enumerate(lora_parameters(network)):
                parameter.fill_(number)
        state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert keys < set(state)
    assert {key.partition("lora_")[2] for key in set(state) - keys} == {
        f"{side}:{name}{rows}" for side in "ab" for name in "ab" for rows in ("", ":q", ":k", ":v")
    }
    fresh = small_transformer(seed=5)
    with attach(fresh, LoRA(rank=2, name="a"), LoRA(rank=2, name="b")):
        fresh.load_state_dict(state, strict=True)
        assert all(torch.equal(tensor, state[key]) for key, tensor in fresh.state_dict().items())


@torch.no_grad()
def test_a_copy_of_the_network_is_on_its_own() -> None:
    network = small_transformer()
    with attach(network, StoredLoRA(attention_pairs(network))):
        double = copy.deepcopy(network)
        expected = network(*inputs())
    assert torch.equal(double(*inputs()), expected)
    rescale(double, "default", 0.0)
    assert torch.equal(double(*inputs()), network(*inputs()))


@torch.no_grad()
def test_a_compiled_linear_takes_a_new_scale_without_being_compiled_again() -> None:
    network = small_transformer()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    x = torch.randn(2, 3, network.config.width)
    with attach(network, StoredLoRA(attention_pairs(network))):
        linear = network.blocks[0].attention.qkv
        compiled = torch.compile(linear, backend=backend, fullgraph=True)
        for scale in (1.0, 0.5, 0.0):
            rescale(network, "default", scale)
            torch.testing.assert_close(compiled(x), linear(x))
    assert len(graphs) == 1
