"""Prototypes that prove the seams before anything is built on them: packing, and sharding with modulation outside.

LoRA on one row block is in tests/extensions/test_attach.py, the VAE on two processes in test_vae_two_process.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import spawn
from torch.nn import functional as F

from cogworks.config.variants import TINY
from cogworks.extensions.attach import Place, Wrapper, WrapperFactory, attach
from cogworks.models.transformer import Transformer
from cogworks.nn.blocks import Conditioning
from cogworks.nn.layout import Segment, TokenLayout
from cogworks.nn.modulation import block_modulation
from cogworks.nn.rope import rope_table

CONFIG = replace(TINY.transformer, num_layers=2, num_heads=2, text_width=16, text_tokens=5, time_width=16)


def network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


class _SegmentAttention(Wrapper):
    """Each segment attends to itself: what a variable-length kernel does, in a loop."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        edges = layout.boundaries
        parts = [F.scaled_dot_product_attention(*(x[:, :, a:b] for x in (q, k, v))) for a, b in pairwise(edges)]
        return torch.cat(parts, dim=2)


@dataclass(frozen=True)
class _Packed:
    place = Place.KERNEL

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [("blocks.*.attention.inner", lambda path, inner: _SegmentAttention(inner))]


@torch.no_grad()
def test_two_packed_segments_equal_two_runs() -> None:
    model = network()
    sizes = ((5, 1, 2, 3), (5, 2, 4, 2))
    segments = tuple(Segment(*size, modulation_row=row) for row, size in enumerate(sizes))
    tokens = [torch.randn(1, segment.length, CONFIG.width) for segment in segments]
    times = [torch.tensor([900]), torch.tensor([40])]
    tables = [model.modulation_table(t) for t in times]

    def run(x: Tensor, layout: TokenLayout, rows: list[Tensor]) -> Tensor:
        conditioning = Conditioning([block_modulation(each) for each in rows], rope_table(layout, CONFIG, x.device))
        return model.runner(model.blocks, x, conditioning, layout, None)

    alone = [
        run(x, TokenLayout((replace(segment, modulation_row=0),)), table.blocks)
        for x, segment, table in zip(tokens, segments, tables, strict=True)
    ]
    both = [torch.cat([table.blocks[layer] for table in tables], dim=1) for layer in range(CONFIG.num_layers)]
    with attach(model, _Packed()):  # type: ignore[arg-type]
        packed = run(torch.cat(tokens, dim=1), TokenLayout(segments), both)
    # Text is left alone by the last block of one segment (`LastBlock`); nobody reads it.
    video = [slice(5, 11), slice(16, 32)]
    for rows, one in zip(video, alone, strict=True):
        torch.testing.assert_close(packed[:, rows], one[:, 5:], atol=1e-5, rtol=1e-5)
    # Negative control: exchanged modulation rows are noticed.
    swapped = tuple(replace(s, modulation_row=1 - s.modulation_row) for s in segments)
    with attach(model, _Packed()):  # type: ignore[arg-type]
        wrong = run(torch.cat(tokens, dim=1), TokenLayout(swapped), both)
    assert all((wrong - packed)[:, rows].abs().max() > 1e-2 for rows in video)


def test_plain_attention_refuses_packed_segments() -> None:
    model = network()
    layout = TokenLayout((Segment(5, 1, 1, 1), Segment(5, 1, 1, 1)))
    x = torch.zeros(1, 2, 12, 32)
    with pytest.raises(ValueError, match="2 packed segments"):
        model.blocks[0].attention.inner(x, x, x, layout)


def _loss(model: Transformer) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, CONFIG.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(2, 5, 16, generator=generator)
    return model(latents, torch.tensor([999, 10]), text).square().mean()


def _sharded_step(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    plain, model = network(), network()
    mesh = init_device_mesh("cpu", (2,))
    # Blocks and modulation linears are units of their own: a block never holds the linears of its modulation.
    for unit in [*model.blocks, *model.modulations]:
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for one in (plain, model):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        _loss(one).backward()
        optimizer.step()
    torch.testing.assert_close(_loss(model), _loss(plain), atol=1e-6, rtol=1e-5)
    sharded = model.modulations[0].weight.full_tensor()
    torch.testing.assert_close(sharded, plain.modulations[0].weight, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(sharded, network().modulations[0].weight, atol=1e-6)  # the step changed it
    dist.destroy_process_group()


@pytest.mark.dist
def test_sharded_blocks_train_like_one_process(tmp_path: Path) -> None:
    spawn(_sharded_step, (str(tmp_path),), nprocs=2)


@pytest.mark.parametrize("positions", ["sincos", "none"])
def test_a_network_trains_after_it_was_used_in_inference_mode(positions: str) -> None:
    """Tables that are remembered between calls must not be tensors of inference mode."""
    config = replace(CONFIG, position_table=positions, rope="none" if positions == "sincos" else CONFIG.rope)
    model = Transformer(config)
    inputs = torch.randn(1, config.in_channels, 2, 10, 6), torch.tensor([7]), torch.randn(1, 5, 16)
    with torch.inference_mode():
        model(*inputs)
    model(*inputs).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())
