"""The transformer beside diffusers' with the same random weights: predictions at several sizes, and gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import TransformerConfig
from cogworks.models.transformer import Transformer
from cogworks.nn import rope
from helpers.small_models import TEXT_TOKENS
from helpers.transformer_pair import by_our_names, run_theirs, transformer_pair

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

# Predictions reach 4 and both sides multiply the same matrices; only the order of sums differs: 6e-6 measured.
TOLERANCE = 2e-5
# Relative to the largest gradient of a parameter. The sinusoid of timestep 999 differs by 3e-5 (ours takes its
# frequencies from float64), which shows in the gradient of the first linear after it: 2.5e-5; elsewhere 5e-6.
GRADIENT_TOLERANCE = 1e-4
LANDSCAPE = {"sample_height": 8, "sample_width": 12, "sample_frames": 9}  # the size of training, in latents

Pair = tuple[Transformer, "CogVideoXTransformer3DModel"]
Size = tuple[int, int, int]  # latent frames, rows, columns


def inputs(config: TransformerConfig, size: Size, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and text embeddings."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, *size, generator=generator)
    text_emb = torch.randn(batch, config.text_tokens, config.text_width, generator=generator)
    return latents, torch.tensor([999, 417, 0])[:batch], text_emb


def run_ours(ours: Transformer, latents: Tensor, timesteps: Tensor, text_emb: Tensor) -> Tensor:
    ofs = None if ours.ofs_embed is None else torch.full((len(latents),), 2.0)
    return ours(latents, timesteps, text_emb, ofs)


@torch.no_grad()
def difference(pair: Pair, size: Size, batch: int = 2, rope_size: tuple[int, int] | None = None) -> float:
    ours, theirs = pair
    given = inputs(ours.config, size, batch)
    return (run_ours(ours, *given) - run_theirs(theirs, *given, rope_size=rope_size)).abs().max().item()


@pytest.mark.parametrize(
    ("variation", "size"),
    [
        ("2b", (3, 8, 12)),
        ("2b", (3, 6, 4)),  # the sin-cos table of another size
        ("2b", (5, 10, 14)),
        ("5b", (3, 8, 12)),
        ("5b", (2, 12, 6)),  # portrait: rows fill the base grid, columns are cropped
        ("5b", (1, 4, 16)),  # wider than the base grid
        ("5b", (4, 10, 14)),  # where rounding to half a token matters
        ("5b-i2v", (3, 8, 12)),
        ("1.5", (4, 8, 12)),
        ("1.5", (2, 6, 4)),
        ("1.5-i2v", (4, 8, 12)),
        ("1.5-i2v", (2, 8, 6)),
    ],
)
def test_prediction(variation: str, size: Size) -> None:
    assert difference(transformer_pair(variation, **LANDSCAPE), size) < TOLERANCE


@pytest.mark.parametrize(("frames", "size"), [(9, (3, 4, 6)), (17, (5, 8, 4)), (1, (1, 6, 6))])
def test_learned_positions_of_several_sizes_of_training(frames: int, size: Size) -> None:
    pair = transformer_pair("5b-i2v", sample_height=size[1], sample_width=size[2], sample_frames=frames)
    assert difference(pair, size) < TOLERANCE


@pytest.mark.parametrize("variation", ["2b", "5b", "1.5-i2v"])
@pytest.mark.parametrize("batch", [1, 3])
def test_other_batches(variation: str, batch: int) -> None:
    assert difference(transformer_pair(variation, **LANDSCAPE), (2, 4, 4), batch) < TOLERANCE


@pytest.mark.parametrize("text_tokens", [1, TEXT_TOKENS + 3])
def test_other_text_lengths(text_tokens: int) -> None:
    """Without a table of fixed length, any number of text tokens does."""
    ours, theirs = transformer_pair("5b", **LANDSCAPE)
    latents, timesteps, text_emb = inputs(ours.config, (2, 4, 4))
    text_emb = text_emb[:, :1].expand(-1, text_tokens, -1) * torch.linspace(0.5, 1, text_tokens)[:, None]
    with torch.no_grad():
        predictions = [run(net, latents, timesteps, text_emb) for run, net in ((run_ours, ours), (run_theirs, theirs))]
    torch.testing.assert_close(*predictions, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variation", ["5b-i2v", "1.5-i2v"])
def test_gradients(variation: str) -> None:
    """Of every parameter, the learned table included, and of both inputs."""
    ours, theirs = transformer_pair(variation, **LANDSCAPE)
    size = (3, 8, 12) if variation == "5b-i2v" else (4, 8, 12)
    latents, timesteps, text_emb = inputs(ours.config, size)
    weights = torch.randn(2, ours.config.out_channels, *size, generator=torch.Generator().manual_seed(2))
    grads = []
    for run, network in ((run_ours, ours), (run_theirs, theirs)):
        given = [tensor.clone().requires_grad_() for tensor in (latents, text_emb)]
        if variation == "5b-i2v" and network is theirs:
            network.patch_embed.pos_embedding.requires_grad_()  # a buffer there, a parameter here
        (run(network, given[0], timesteps, given[1]) * weights).sum().backward()
        found = {name: tensor.grad for name, tensor in network.state_dict(keep_vars=True).items()}
        if network is theirs:
            found = by_our_names(found, ours)
        grads.append(found | {"latents": given[0].grad, "text_emb": given[1].grad})
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[1].items():
        scale = expected.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(
            grads[0][name],
            expected,
            atol=GRADIENT_TOLERANCE * scale,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


# Negative controls: the same comparison with one thing wrong.


@pytest.mark.parametrize("variation", ["5b", "1.5"])
def test_a_rotary_table_of_another_size_is_seen(variation: str) -> None:
    """Same number of tokens, other positions: 12 x 8 for 8 x 12."""
    pair = transformer_pair(variation, **{**LANDSCAPE, "sample_height": 12})
    assert difference(pair, (2, 8, 12), rope_size=(12 * 8, 8 * 8)) > 100 * TOLERANCE


def test_the_other_rotary_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = transformer_pair("5b", **LANDSCAPE)
    monkeypatch.setattr(rope, "crop_positions", rope.count_positions)
    rope._rope.cache_clear()
    try:
        assert difference(pair, (2, 12, 6)) > 100 * TOLERANCE
    finally:
        rope._rope.cache_clear()


@pytest.mark.parametrize(
    ("variation", "parameter"),
    [
        ("2b", "modulations.1.bias"),
        ("5b", "blocks.0.attention.norm_q.weight"),
        ("5b-i2v", "position_table.table"),
        ("1.5", "patch_embed.proj.weight"),
        ("1.5-i2v", "ofs_embed.down.bias"),
    ],
)
def test_one_parameter_out_of_order_is_seen(variation: str, parameter: str) -> None:
    ours, theirs = transformer_pair(variation, **LANDSCAPE)
    weight = ours.get_parameter(parameter)
    weight.data = weight.data.roll(1, dims=-2 if weight.ndim == 3 else -1)
    size = (3, 8, 12) if variation == "5b-i2v" else (2, 8, 12)
    assert difference((ours, theirs), size) > 100 * TOLERANCE


def test_what_the_network_refuses() -> None:
    """Sizes that do not divide into patches, wrong channels or `ofs`, another size than that of a learned table."""
    ours, _ = transformer_pair("1.5", **LANDSCAPE)
    latents, timesteps, text_emb = inputs(ours.config, (4, 4, 4))
    with pytest.raises(ValueError, match="latent frames must be divisible by 2, got 3"):
        ours(latents[:, :, :3], timesteps, text_emb)
    with pytest.raises(ValueError, match="latent rows must be divisible by 2, got 3"):
        ours(latents[:, :, :, :3], timesteps, text_emb)
    with pytest.raises(ValueError, match="expected 4 latent channels, got 3"):
        ours(latents[:, :3], timesteps, text_emb)
    with pytest.raises(ValueError, match="ofs must not be given"):
        ours(latents, timesteps, text_emb, torch.full((2,), 2.0))
    learned, _ = transformer_pair("5b-i2v", **LANDSCAPE)
    with pytest.raises(ValueError, match="learned position table for 88 tokens and got 80"):
        learned(*inputs(learned.config, (2, 8, 16)))
    with_ofs, _ = transformer_pair("1.5-i2v", **LANDSCAPE)
    with pytest.raises(ValueError, match="ofs must be given"):
        with_ofs(*inputs(with_ofs.config, (2, 4, 4)))
