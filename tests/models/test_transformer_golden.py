"""The transformer against arrays recorded from the original SAT code: five small networks, every stage of the forward.

Weights, inputs and tolerance are those of tests/golden/cogvideox_sat/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogworks.models import transformer as transformer_module
from cogworks.models.transformer import Transformer
from cogworks.nn import attention, blocks, embeddings, modulation
from cogworks.nn.layout import TokenLayout
from cogworks.nn.rope import Rope
from helpers.golden_weights import CONFIGS, load_golden, load_golden_transformer

TOLERANCE = 1e-5  # the README's; measured 1.9e-6
T2V, SINCOS, I2V15 = "t2v_rope", "t2v_sincos", "i2v15_rope_slice_ofs"


@torch.no_grad()
def run(network: Transformer, name: str) -> dict[str, Tensor]:
    """Every recorded stage, under its name in the golden file."""
    arrays = load_golden(f"dit_{name}.io")
    stages: dict[str, Tensor] = {}

    def keep(stage: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            stages[stage] = stages[stage] + output if stage == "out.emb" and stage in stages else output

        return hook

    watched = [
        ("out.emb", network.time_embed),
        ("out.emb", network.ofs_embed),  # added to the embedding of the timestep
        ("out.hidden_embed", network.position_table),
        *((f"out.hidden_layer{i}", block) for i, block in enumerate(network.blocks)),
        ("out.hidden_final_layernorm", network.norm_final),
    ]
    handles = [module.register_forward_hook(keep(stage)) for stage, module in watched if module is not None]
    try:
        latents = torch.cat([arrays[key] for key in ("in.x", "in.concat") if key in arrays], dim=2).transpose(1, 2)
        ofs = arrays["in.ofs"].expand(len(latents)) if "in.ofs" in arrays else None
        output = network(latents, arrays["in.timesteps"], arrays["in.context"], ofs)
    finally:
        for handle in handles:
            handle.remove()
    return {**stages, "out.output": output.transpose(1, 2)}


def differences(network: Transformer, name: str) -> dict[str, float]:
    """The largest absolute difference from the recording, of every stage that was recorded, in order."""
    arrays, stages = load_golden(f"dit_{name}.io"), run(network, name)
    assert set(stages) == {key for key in arrays if key.startswith("out.")}
    # What text becomes in the last block nobody reads, and here it is not computed.
    last, text = f"out.hidden_layer{len(network.blocks) - 1}", arrays["in.context"].shape[1]
    read = {last: slice(text, None), "out.hidden_final_layernorm": slice(text, None)}
    rows = {key: (slice(None), read.get(key, slice(None))) for key in stages}
    return {key: (stages[key][rows[key]] - arrays[key][rows[key]]).abs().max().item() for key in stages}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage(name: str) -> None:
    found = differences(load_golden_transformer(name), name)
    assert max(found.values()) < TOLERANCE, found


def _exchange_modalities(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchanged(rows: Tensor) -> modulation.BlockModulation:
        return modulation.block_modulation(rows.unflatten(-1, (2, -1)).flip(-2).flatten(-2))

    monkeypatch.setattr(transformer_module, "block_modulation", exchanged)


def _exchange_shift_and_scale(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    for parameter in network.modulation_out.parameters():
        parameter.data = parameter.data.roll(len(parameter) // 2, dims=0)


def _rotate_halves(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other convention of rotary positions: the pairs are (k, k + d/2)."""

    def apply(x: Tensor, rope: Rope, *layout: TokenLayout, overwrite: bool = False) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * rope.cos - second * rope.sin, second * rope.cos + first * rope.sin], dim=-1)

    monkeypatch.setattr(attention, "apply_rope", apply)


def _no_rotation(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_module, "rope_table", lambda *arguments: None)


def _epsilon_of_diffusers(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    network.norm_out.eps = 1e-5


def _exact_gelu(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "linear_gelu", lambda linear, x: torch.nn.functional.gelu(linear(x)))


def _sine_first(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    sinusoid = embeddings.sinusoid
    monkeypatch.setattr(embeddings, "sinusoid", lambda values, width: sinusoid(values, width).roll(width // 2, dims=-1))


def _rows_first(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    table = embeddings.sincos_table

    def rows_first(grid: tuple[int, int, int], width: int, *interpolation: float) -> Tensor:
        time, column, row = table(grid, width, *interpolation).split([width // 4, 3 * width // 8, 3 * width // 8], 1)
        return torch.cat([time, row, column], dim=1)

    monkeypatch.setattr(embeddings, "sincos_table", rows_first)
    monkeypatch.setattr(
        embeddings, "_sincos_rows", embeddings._sincos_rows.__wrapped__
    )  # which remembers the right one


def _no_ofs(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.ofs_embed is not None
    for parameter in network.ofs_embed.parameters():
        parameter.data = torch.zeros_like(parameter)


@pytest.mark.parametrize(
    ("break_it", "name", "first_seen", "effect"),
    [  # effects on the output as the README states them, or measured where it does not
        (_epsilon_of_diffusers, T2V, "out.output", 1.4e-5),
        (_exact_gelu, T2V, "out.hidden_layer0", 3e-4),
        (_rotate_halves, T2V, "out.hidden_layer0", 0.2),
        (_no_rotation, T2V, "out.hidden_layer0", 0.15),
        (_exchange_modalities, T2V, "out.hidden_layer0", 1.5),
        (_exchange_shift_and_scale, T2V, "out.output", 1.0),
        (_sine_first, T2V, "out.emb", 1.0),
        (_rows_first, SINCOS, "out.hidden_embed", 1.0),
        (_no_ofs, I2V15, "out.emb", 0.1),
    ],
)
def test_a_broken_network_is_seen(
    break_it: Callable[[Transformer, pytest.MonkeyPatch], None],
    name: str,
    first_seen: str,
    effect: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative controls: each mistake shows in the output and in the first stage that it can reach."""
    network = deepcopy(load_golden_transformer(name))
    break_it(network, monkeypatch)
    found = differences(network, name)
    assert found["out.output"] > effect
    assert found[first_seen] > TOLERANCE
    before = list(found)[: list(found).index(first_seen)]
    assert all(found[stage] < TOLERANCE for stage in before)
