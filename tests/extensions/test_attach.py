"""The extension mechanism: order, refusals, undoing, keys; and its first user, the choice of kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.variants import TINY
from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Place, Wrapper, WrapperFactory, attach
from cogworks.extensions.kernels import AttentionKernel
from cogworks.models.transformer import Transformer
from cogworks.nn.linear import StackedLinear

CONFIG = replace(TINY.transformer, num_layers=2, num_heads=2, text_width=16, text_tokens=5, time_width=16)


def network(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(CONFIG).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, CONFIG.in_channels, 2, 4, 4, generator=generator)
    return latents, torch.tensor([999, 10]), torch.randn(2, 5, 16, generator=generator)


class LowRank(Wrapper):
    """LoRA on one row block of a stacked linear: the other rows stay bitwise what they were."""

    def __init__(self, inner: nn.Module, rows: str, rank: int) -> None:
        super().__init__(inner)
        assert isinstance(inner, StackedLinear)
        self.rows = inner.rows(rows)
        self.lora_a = nn.Parameter(torch.randn(rank, inner.in_features))
        self.lora_b = nn.Parameter(torch.randn(inner.block_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        changed = y[..., self.rows] + x @ self.lora_a.T @ self.lora_b.T
        return torch.cat([y[..., : self.rows.start], changed, y[..., self.rows.stop :]], dim=-1)


@dataclass(frozen=True)
class QueryLoRA:
    rank: int
    pattern: str = "blocks.*.attention.qkv"

    @property
    def place(self) -> Place:
        return Place.ADAPTER

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [(self.pattern, lambda path, inner: LowRank(inner, "q", self.rank))]


@torch.no_grad()
def test_lora_on_the_query_block_alone_equals_merged_weights() -> None:
    torch.manual_seed(2)
    base, merged = network(), network()
    with attach(base, QueryLoRA(rank=3)) as attachment:
        assert attachment.paths == ["blocks.0.attention.qkv", "blocks.1.attention.qkv"]
        for index, block in enumerate(base.blocks):
            wrapper, stacked = block.attention.qkv, merged.blocks[index].attention.qkv
            x = torch.randn(4, CONFIG.width)
            others = slice(wrapper.rows.stop, None)
            assert torch.equal(wrapper(x)[:, others], stacked(x)[:, others])
            stacked.weight[wrapper.rows] += wrapper.lora_b @ wrapper.lora_a
        attached = base(*inputs())
    torch.testing.assert_close(attached, merged(*inputs()), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(attached, base(*inputs()), atol=1e-2)  # the adapter did something


def test_gradients_reach_the_adapter_and_the_input() -> None:
    base = network()
    base.requires_grad_(False)
    with attach(base, QueryLoRA(rank=2)):
        base(*inputs()).square().sum().backward()
        adapters = [p for name, p in base.named_parameters() if "lora" in name]
        assert len(adapters) == 4
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters)


@torch.no_grad()
def test_detaching_restores_the_network_bitwise() -> None:
    base = network()
    before, keys = base(*inputs()), list(base.state_dict())
    with attach(base, QueryLoRA(rank=2), AttentionKernel("math")):
        base(*inputs())
    assert torch.equal(base(*inputs()), before)
    assert list(base.state_dict()) == keys


def test_base_keys_do_not_change_and_adapters_are_added() -> None:
    base = network()
    keys = set(base.state_dict())
    with attach(base, QueryLoRA(rank=2), AttentionKernel("math")):
        state = base.state_dict()
        assert keys <= set(state)
        assert {key.rsplit(".", 1)[1] for key in set(state) - keys} == {"lora_a", "lora_b"}
        fresh = network(seed=5)
        with attach(fresh, QueryLoRA(rank=2)):
            fresh.load_state_dict(state, strict=True)
            assert torch.equal(fresh.blocks[0].attention.qkv.inner.weight, base.blocks[0].attention.qkv.inner.weight)


@torch.no_grad()
def test_kernels_agree() -> None:
    base = network()
    plain = base(*inputs())
    for name in ("math", "flash"):
        with attach(base, AttentionKernel(name)):  # type: ignore[arg-type]
            torch.testing.assert_close(base(*inputs()), plain, atol=1e-5, rtol=1e-5)


def test_refusals_leave_nothing_attached() -> None:
    base = network()
    with pytest.raises(ExtensionError, match="matches nothing"):
        attach(base, AttentionKernel("math"), QueryLoRA(rank=1, pattern="blocks.*.attention.qkvv"))
    with pytest.raises(ExtensionError, match="attached there already"):
        attach(base, AttentionKernel("math"), AttentionKernel("flash"))
    assert not any(isinstance(module, Wrapper) for module in base.modules())
    with pytest.raises(ExtensionError, match="no attention kernel named 'fast'"):
        AttentionKernel("fast")  # type: ignore[arg-type]


def test_detaching_out_of_order_is_refused() -> None:
    base = network()
    first = attach(base, AttentionKernel("math"))

    @dataclass(frozen=True)
    class Outer:
        place = 50

        def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
            class Pass(Wrapper):
                def forward(self, *args: object) -> object:
                    return self.inner(*args)

            return [("blocks.*.attention.inner", lambda path, inner: Pass(inner))]

    second = attach(base, Outer())  # type: ignore[arg-type]
    with pytest.raises(ExtensionError, match="wrapped again"):
        first.detach()
    second.detach()
    first.detach()
    assert not any(isinstance(module, Wrapper) for module in base.modules())
