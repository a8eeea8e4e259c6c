"""What a LoRA refuses: targets, options and names that make no sense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Wrapper, attach
from cogworks.extensions.lora import LoRA, StoredLoRA, lora_pairs, lora_parameters, rescale
from cogworks.extensions.lora_linear import LoRALinear
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank
from helpers.lora_factors import random_pair, small_transformer


def refuse(match: str, *extensions: LoRA | StoredLoRA) -> None:
    network = small_transformer()
    with pytest.raises(ExtensionError, match=match):
        attach(network, *extensions)
    assert not any(isinstance(module, Wrapper) for module in network.modules())


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("blocks.*.attn.qkv", r"matches nothing.*near it are blocks\.\*\.attention\.qkv"),
        ("blocks.7.attention.qkv", r"matches nothing.*near it are blocks\.\*\.attention\.qkv"),
        ("blocks.*.attention.qkv:w", "row blocks there are q, k, v"),
        ("modulations.*:video_shft_mlp", "row blocks there are video_shift_mlp"),
        ("blocks.*.attention.out:q", "this linear has no row blocks; leave out :q"),
        ("blocks.*.norm1", "is a LayerNorm; a LoRA goes to linears alone"),
    ],
)
def test_a_target_that_matches_nothing_is_refused(target: str, match: str) -> None:
    refuse(match, LoRA(rank=2, targets=("blocks.0.mlp.up", target)))


def test_what_does_not_fit_is_refused() -> None:
    small = small_transformer()
    pair = random_pair(small, "blocks.0.attention.out")
    wide = LowRank(pair.path, (), torch.zeros(3, 99), pair.lora_b, 1.0)
    refuse("blocks.0.attention.out is 64 -> 64, its LoRA is 99 -> 64", StoredLoRA((wide,)))
    refuse("has no row block z", StoredLoRA((LowRank("blocks.0.attention.qkv", ("z",), *_factors(pair), 1.0),)))
    refuse("twice; give each LoRA a name of its own", StoredLoRA((pair,)), StoredLoRA((pair,)))
    refuse("twice", LoRA(rank=2, targets=("blocks.*.mlp.up", "blocks.0.mlp.*")))


def _factors(pair: LowRank) -> tuple[Tensor, Tensor]:
    return pair.lora_a, pair.lora_b


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LoRA(rank=0), "1 or more, got 0"),
        (lambda: LoRA(rank=2, alpha=float("nan")), "finite"),
        (lambda: LoRA(rank=2, dropout=1.0), "below 1"),
        (lambda: LoRA(rank=2, scale=float("inf")), "finite"),
        (lambda: LoRA(rank=2, name="a.b"), "letters"),
        (lambda: LoRA(rank=2, targets=()), "list of path patterns"),
        (lambda: LoRA(rank=2, targets="blocks.*"), "list of path patterns"),
        (lambda: StoredLoRA(()), "no factors"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ExtensionError, match=match):
        make()


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    network = small_transformer()
    with pytest.raises(ExtensionError, match="it has none"):
        lora_parameters(network)
    with attach(network, LoRA(rank=2, name="style")):
        for call in (lora_parameters, lora_pairs, lambda n, name: rescale(n, name, 1.0)):
            with pytest.raises(ExtensionError, match="named 'stile': it has style"):
                call(network, "stile")


def test_a_wrapped_linear_still_tells_its_weight() -> None:
    network = small_transformer()
    weight = network.proj_out.weight
    with attach(network, LoRA(rank=2, targets=("proj_out",), name="a"), LoRA(rank=2, targets=("proj_out",), name="b")):
        assert isinstance(network.proj_out, LoRALinear)
        assert not isinstance(network.proj_out, nn.Linear | StackedLinear)  # paths that read raw weights stay away
        assert network.proj_out.weight is weight
