"""What may be computed once for many steps, and what the fast forms of the block leave alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.variants import TINY, VARIANTS
from cogworks.extensions.attach import Place, Wrapper, WrapperFactory, attach
from cogworks.extensions.checkpointing import ActivationCheckpointing
from cogworks.extensions.int8 import Int8Weights
from cogworks.extensions.lora import LoRA
from cogworks.models.transformer import Transformer
from cogworks.nn.blocks import Block, LastBlock
from cogworks.nn.layout import Segment, TokenLayout
from cogworks.nn.modulation import block_modulation
from cogworks.nn.overwrite import may_overwrite
from cogworks.nn.rope import rope_table

CONFIG = replace(TINY.transformer, num_layers=2, num_heads=2, text_width=16, text_tokens=5, time_width=16)


def network(**changes: object) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def inputs(model: Transformer, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, model.config.in_channels, 2, 4, 4, generator=generator)
    return latents, torch.full((batch,), 900.0), torch.randn(batch, 5, 16, generator=generator)


@pytest.mark.parametrize("positions", ["none", "sincos", "learned"])
@torch.no_grad()
def test_latents_meet_several_texts(positions: str) -> None:
    model = network(position_table=positions, sample_size=(4, 4), sample_frames=5)
    latents, _, text = inputs(model)
    other = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    both = torch.cat([other, text])
    expected = model(torch.cat([latents, latents]), torch.full((4,), 300.0), both)
    table = model.modulation_table(torch.tensor([900.0, 300.0, 5.0])).row(1)
    found = model.predict(latents, model.patch_embed.text_proj(both), table)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Negative controls: another row, and the texts exchanged.
    wrong = model.predict(latents, model.patch_embed.text_proj(both), model.modulation_table(torch.tensor([900.0])))
    assert (wrong - expected).abs().max() > 1e-3
    exchanged = model.predict(latents, model.patch_embed.text_proj(torch.cat([text, other])), table)
    assert (exchanged - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.transformer.ofs_width])
@torch.no_grad()
def test_ofs_is_in_the_table(name: str) -> None:
    model = network(ofs_width=VARIANTS[name].transformer.ofs_width)
    latents, timesteps, text = inputs(model)
    expected = model(latents, timesteps, text, torch.full((2,), 2.0))
    table = model.modulation_table(torch.tensor([900.0]), torch.tensor([2.0]))
    torch.testing.assert_close(
        model.predict(latents, model.patch_embed.text_proj(text), table), expected, atol=1e-5, rtol=1e-5
    )


class _Watching(Wrapper):
    """Keeps what passes by, as a feature cache would, and returns it unchanged."""

    def forward(self, *arguments: object) -> object:
        result = self.inner(*arguments)
        tensors = [each for each in (*arguments, result) if isinstance(each, Tensor)]
        self.kept = [(each, each.clone()) for each in tensors]
        return result


class _WatchingRunner(Wrapper):
    def forward(self, blocks: Iterable[nn.Module], tokens: Tensor, *rest: object) -> Tensor:
        self.kept = [(tokens, tokens.clone())]
        watched = []
        for block in blocks:

            def call(x: Tensor, *arguments: object, block: nn.Module = block) -> Tensor:
                result: Tensor = block(x, *arguments)
                self.kept += [(x, x.clone()), (result, result.clone())]
                return result

            watched.append(call)
        return self.inner(watched, tokens, *rest)


@dataclass(frozen=True)
class _Watch:
    pattern: str
    kind: type[Wrapper]
    place = Place.ADAPTER

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [(self.pattern, lambda path, inner: self.kind(inner))]


@pytest.mark.parametrize(
    "pattern", ["blocks.*.attention.qkv", "blocks.*.attention.out", "blocks.*.mlp.up", "blocks.*.mlp.down", "runner"]
)
@torch.no_grad()
def test_what_an_extension_keeps_is_not_written_over(pattern: str) -> None:
    """A cache that stands at a seam holds tensors from one step to the next."""
    model = network()
    expected = model(*inputs(model))
    with attach(model, _Watch(pattern, _WatchingRunner if pattern == "runner" else _Watching)):
        torch.testing.assert_close(model(*inputs(model)), expected, atol=1e-6, rtol=1e-6)
        kept = [pair for module in model.modules() if hasattr(module, "kept") for pair in module.kept]
        assert len(kept) >= 4
        assert all(torch.equal(held, seen) for held, seen in kept)


@torch.no_grad()
def test_what_a_hook_keeps_is_not_written_over() -> None:
    model, kept = network(), []
    expected = model(*inputs(model))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda module, given, result: kept.append((result, result.clone())))
    torch.testing.assert_close(model(*inputs(model)), expected, atol=1e-6, rtol=1e-6)
    assert len(kept) > 20
    assert all(torch.equal(held, seen) for held, seen in kept)


@torch.no_grad()
def test_inputs_are_not_written_over() -> None:
    model = network(position_table="sincos")
    given = inputs(model)
    kept = [tensor.clone() for tensor in given]
    model(*given)
    assert all(torch.equal(tensor, before) for tensor, before in zip(given, kept, strict=True))


# All of the first three; the fourth beside each of them.
COMBINATIONS = [(*three, False) for three in product([False, True], repeat=3)] + [
    (False, True, False, True),
    (True, True, True, True),
]


@pytest.mark.parametrize(("lora", "gradients", "compiled", "recomputed"), COMBINATIONS)
def test_combinations_agree(lora: bool, gradients: bool, compiled: bool, recomputed: bool) -> None:
    """With a LoRA attached, gradients on, blocks compiled, activations computed again: one result, one gradient."""
    plain, model = network(), network()
    for one in (plain, model):
        if lora:
            attach(one, LoRA(rank=2, targets=("blocks.*.attention.qkv", "blocks.*.mlp.*")))
            for name, parameter in one.named_parameters():
                if "lora_b" in name:
                    nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    if recomputed:
        attach(model, ActivationCheckpointing())
    if compiled:
        for block in model.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
    with torch.no_grad():  # one form of two: the other one is under test where gradients are on
        expected = plain(*inputs(plain))
    with torch.set_grad_enabled(gradients):
        found = model(*inputs(model))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    if gradients:
        found.square().mean().backward()
        plain(*inputs(plain)).square().mean().backward()
        for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
            if one.grad is None:
                assert other.grad is None, name
            else:
                torch.testing.assert_close(
                    other.grad, one.grad, atol=1e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
                )


@pytest.mark.parametrize(
    "extension", [LoRA(rank=2, targets=("blocks.*.mlp.*", "blocks.*.attention.out")), Int8Weights()]
)
@torch.no_grad()
def test_wrappers_that_return_fresh_results_are_written_over(extension: LoRA | Int8Weights) -> None:
    """As a plain linear's are, so that they cost no memory; the numbers stay what they are with gradients on."""
    model = network()
    attach(model, extension)
    block = model.blocks[0]
    assert may_overwrite(block.mlp.up)
    assert may_overwrite(block.attention.out)
    found = model(*inputs(model))
    with torch.enable_grad():
        assert not may_overwrite(block.mlp.up)
        expected = model(*inputs(model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    block.mlp.up.register_forward_hook(lambda module, given, result: None)
    assert not may_overwrite(block.mlp.up)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_last_block_gives_the_video_that_any_block_gives(gradients: bool, wrapped: bool) -> None:
    """It leaves out what text becomes, and calls an attention that an extension put there with all queries."""
    model = network(num_layers=1)
    last = model.blocks[0]
    assert type(last) is LastBlock
    whole = Block(model.config)
    whole.load_state_dict(last.state_dict())
    layout = TokenLayout((Segment(5, 2, 2, 2),))
    table = block_modulation(model.modulation_table(torch.tensor([500.0, 20.0])).blocks[0])
    rope = rope_table(layout, model.config, torch.device("cpu"))
    seen: list[int] = []

    class Counting(Wrapper):
        def forward(self, q: Tensor, *rest: object) -> Tensor:
            seen.append(q.shape[2])
            return self.inner(q, *rest)

    if wrapped:
        attach(model, _Watch("blocks.*.attention.inner", Counting))
    x = torch.randn(2, layout.length, model.config.width, generator=torch.Generator().manual_seed(3))
    with torch.set_grad_enabled(gradients):
        kept = x.clone()
        found, expected = last(x, table, rope, layout), whole(x, table, rope, layout)
    torch.testing.assert_close(found[:, 5:], expected[:, 5:], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[:, :5], x[:, :5])
    assert torch.equal(x, kept)
    assert seen == ([13] if wrapped else [])
    if gradients:
        for one in (found, expected):
            one[:, 5:].square().mean().backward(retain_graph=True)
        for (name, one), (_, other) in zip(last.named_parameters(), whole.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)
    packed = TokenLayout((Segment(5, 2, 1, 2), Segment(2, 1, 1, 2)))
    assert packed.without_text is None
    assert TokenLayout((Segment(0, 2, 2, 2),)).without_text is None
