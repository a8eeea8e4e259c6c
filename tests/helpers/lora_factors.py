"""Random LoRA factors for a small transformer, and comparisons of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cogworks.config.variants import TINY
from cogworks.models.transformer import Transformer
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank

CONFIG = replace(TINY.transformer, num_layers=2, num_heads=2, text_width=16, text_tokens=5, time_width=16)


def small_transformer(seed: int = 0) -> Transformer:
    """Random weights, none of them zero."""
    torch.manual_seed(seed)
    return Transformer(CONFIG).eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and text for `small_transformer`."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, CONFIG.in_channels, 2, 4, 4, generator=generator)
    return latents, torch.tensor([999, 10]), torch.randn(2, 5, 16, generator=generator)


def random_pair(
    network: nn.Module,
    path: str,
    rows: tuple[str, ...] = (),
    *,
    rank: int = 3,
    alpha: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LowRank:
    """A pair that fits the linear at `path`, neither factor zero."""
    linear = network.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    height = linear.block_features * len(rows) if isinstance(linear, StackedLinear) else linear.out_features
    generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, path + "".join(rows))))
    lora_a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
    lora_b = torch.randn(height, rank, generator=generator) * 0.3
    return LowRank(path, rows, lora_a.to(dtype), lora_b.to(dtype), alpha)


def attention_pairs(
    network: nn.Module,
    *,
    rank: int = 3,
    alpha: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    num_layers: int = CONFIG.num_layers,
) -> tuple[LowRank, ...]:
    """What published LoRAs have: q, k, v and the output projection of every layer, in the order of a file."""
    targets: list[tuple[str, tuple[str, ...]]] = []
    for layer in range(num_layers):
        targets += [(f"blocks.{layer}.attention.qkv", (name,)) for name in "qkv"]
        targets.append((f"blocks.{layer}.attention.out", ()))
    return tuple(
        random_pair(network, path, rows, rank=rank, alpha=alpha, seed=seed, dtype=dtype) for path, rows in targets
    )


def assert_same_pairs(found: Sequence[LowRank], expected: Iterable[LowRank]) -> None:
    """Equal bit for bit: targets, alphas, factors and their dtypes; in any order."""
    ours = {pair.target: pair for pair in found}
    theirs = {pair.target: pair for pair in expected}
    assert len(ours) == len(found)
    assert ours.keys() == theirs.keys()
    for target, pair in theirs.items():
        assert ours[target].alpha == pair.alpha, target
        for name in ("lora_a", "lora_b"):
            a, b = getattr(ours[target], name), getattr(pair, name)
            assert a.dtype == b.dtype, (target, name)
            assert torch.equal(a, b), (target, name)
