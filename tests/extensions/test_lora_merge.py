"""Merging LoRAs into weights and taking them out again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Place, Wrapper, attach
from cogworks.extensions.lora import StoredLoRA, bake, lora_parameters, merge, rescale, unmerge
from cogworks.extensions.lora_linear import LoRALinear
from cogworks.models.transformer import Transformer
from helpers.golden_weights import load_golden, load_golden_transformer
from helpers.lora_factors import attention_pairs, inputs, random_pair, small_transformer

TOLERANCE = 1e-5  # float32, two blocks, outputs up to 3: products summed in another order


def two(network: Transformer) -> tuple[StoredLoRA, StoredLoRA]:
    one, other = (attention_pairs(network, seed=seed) for seed in (1, 2))
    modulation = random_pair(network, "modulations.1", ("video_gate_mlp", "text_shift_mlp"))
    return StoredLoRA((*one, modulation), name="one", scale=0.8), StoredLoRA(other[:4], name="two", scale=-0.5)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items() if "lora_" not in name}


@torch.no_grad()
def test_merged_equals_attached_and_unmerging_is_bitwise() -> None:
    network = small_transformer()
    before, plain = weights(network), network(*inputs())
    with attach(network, *two(network)):
        attached = network(*inputs())
        merge(network)
        merged = network(*inputs())
        torch.testing.assert_close(merged, attached, atol=TOLERANCE, rtol=0)
        assert not torch.equal(merged, attached)  # it is another computation
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(network).items())
        unmerge(network)
        assert torch.equal(network(*inputs()), attached)
    assert torch.equal(network(*inputs()), plain)
    assert (attached - plain).abs().max() > 0.01


@torch.no_grad()
def test_detaching_while_merged_is_bitwise() -> None:
    network = small_transformer()
    before, plain = weights(network), network(*inputs())
    with attach(network, *two(network)):
        merge(network)
    assert torch.equal(network(*inputs()), plain)
    after = weights(network)
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@torch.no_grad()
def test_a_merged_linear_computes_one_product() -> None:
    """Negative control: factors that change after merging are not seen before the next merge."""
    network = small_transformer()
    with attach(network, *two(network)):
        merge(network)
        merged = network(*inputs())
        for parameter in lora_parameters(network):
            parameter.zero_()
        assert torch.equal(network(*inputs()), merged)
        merge(network)
        assert not torch.equal(network(*inputs()), merged)


@torch.no_grad()
def test_rescaling_what_is_merged() -> None:
    network = small_transformer()
    with attach(network, *two(network)):
        rescale(network, "one", 0.2)
        merge(network)
        expected = network(*inputs())
    with attach(network, *two(network)):
        merge(network)
        rescale(network, "one", 0.2)
        assert torch.equal(network(*inputs()), expected)


@torch.no_grad()
def test_another_lora_on_top_of_merged_ones() -> None:
    network = small_transformer()
    one, other = two(network)
    with attach(network, one, other):
        expected = network(*inputs())
    with attach(network, one):
        merge(network)
        with attach(network, other):
            torch.testing.assert_close(network(*inputs()), expected, atol=TOLERANCE, rtol=0)
            rescale(network, "one", 0.8)
            torch.testing.assert_close(network(*inputs()), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_the_golden_merged_weight() -> None:
    from cogworks.nn.low_rank import LowRank

    network, arrays = load_golden_transformer("t2v_rope"), load_golden("lora_t2v_rope_r4")
    name = "lora.transformer.layers.0.attention.query_key_value.matrix"
    pairs = tuple(
        LowRank("blocks.0.attention.qkv", (row,), arrays[f"{name}_A.{part}"], arrays[f"{name}_B.{part}"], 1.0)
        for part, row in enumerate("qkv")
    )
    with attach(network, StoredLoRA(pairs)):
        merge(network)
        wrapper = network.blocks[0].attention.qkv
        assert isinstance(wrapper, LoRALinear)
        expected = arrays["merged.layer0.query_key_value.weight"]
        torch.testing.assert_close(
            wrapper.merged_weight, expected, atol=1e-7, rtol=0
        )  # one rounding of numbers up to 1
        assert (wrapper.weight - expected).abs().max() > 0.01


@torch.no_grad()
def test_bfloat16_weights_are_rounded_once() -> None:
    network = small_transformer().bfloat16()
    linear = network.blocks[0].mlp.up
    pairs = [random_pair(network, "blocks.0.mlp.up", seed=seed) for seed in range(3)]
    loras = [StoredLoRA((pair,), name=f"l{number}") for number, pair in enumerate(pairs)]
    with attach(network, *loras):
        merge(network)
        merged = network.blocks[0].mlp.up.merged_weight
    exact = linear.weight.double() + sum(p.strength * p.lora_b.double() @ p.lora_a.double() for p in pairs)
    assert merged.dtype == torch.bfloat16
    # The sum in float32 may fall on the other side of the middle between two numbers of bfloat16, hardly ever.
    assert (merged != exact.bfloat16()).float().mean() < 1e-3
    by_steps = linear.weight
    for pair in pairs:
        by_steps = (by_steps.float() + pair.strength * pair.lora_b @ pair.lora_a).bfloat16()
    assert (by_steps != exact.bfloat16()).float().mean() > 0.1  # negative control: rounding after each


@torch.no_grad()
def test_baked_weights_stay() -> None:
    network = small_transformer()
    plain = network(*inputs())
    attachment = attach(network, *two(network))
    merge(network)
    merged = network(*inputs())
    bake(network)
    attachment.detach()
    assert torch.equal(network(*inputs()), merged)
    assert not torch.equal(merged, plain)
    assert network.blocks[0].attention.qkv.weight.requires_grad


def test_what_has_no_plain_weight_is_not_merged() -> None:
    class Quantised(Wrapper):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    class Quantise:
        place = Place.KERNEL

        def wrappers(self) -> list[object]:
            return [("blocks.1.attention.out", lambda path, inner: Quantised(inner))]

    network = small_transformer()
    with attach(network, Quantise(), StoredLoRA(attention_pairs(network))):  # type: ignore[arg-type]
        attached = network(*inputs())
        with pytest.raises(ExtensionError, match=r"blocks\.1\.attention\.out holds a Quantised"):
            merge(network)
        assert torch.equal(network(*inputs()), attached)
        assert all(m.merged_weight is None for m in network.modules() if isinstance(m, LoRALinear))


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(ExtensionError, match="it has none"):
        merge(small_transformer())
