"""The text encoder against transformers' T5EncoderModel, small random weights with every parameter perturbed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.variants import T5_XXL
from cogworks.models.text_encoder import TextEncoder, relative_buckets
from cogworks.weights.mapping import convert, lazy_state
from cogworks.weights.maps.diffusers import TEXT_ENCODER_RULES
from cogworks.weights.text_configs import read_text_encoder
from helpers.small_models import perturb, t5_config

TOLERANCE = 1e-5  # two layers in float32; outputs up to 4
HALF_TOLERANCE = 8e-3  # four units in the last place of float16 at 4; either is this far from float32


def _theirs() -> nn.Module:
    from transformers import T5EncoderModel

    torch.manual_seed(0)
    return perturb(T5EncoderModel(t5_config()), 0)


def _ours(theirs: nn.Module) -> TextEncoder:
    ours = TextEncoder(read_text_encoder(theirs.config.to_dict(), "config"))
    expected = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    state = convert(lazy_state(theirs.state_dict()), TEXT_ENCODER_RULES, origin="theirs", expected=expected)
    ours.load_state_dict({name: tensor.read().clone() for name, tensor in state.items()})
    return ours.eval()


def _ids(num_tokens: int = 40) -> Tensor:
    """Prompts of every length, padded with 0: padding is attended to like any token."""
    ids = torch.randint(2, 256, (4, num_tokens), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate((num_tokens, num_tokens // 2, 1, 0)):
        ids[row, length:] = 0
    return ids


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [1, 7, 40, 226])
def test_output_is_that_of_transformers(num_tokens: int) -> None:
    theirs = _theirs()
    ids = _ids(num_tokens)
    expected = theirs(ids).last_hidden_state
    torch.testing.assert_close(_ours(theirs)(ids), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("part", ["relative_bias.weight", "blocks.1.mlp.gate.weight", "blocks.0.attention.q.weight"])
def test_a_change_of_one_part_is_seen(part: str) -> None:
    """Negative control."""
    theirs, ids = _theirs(), _ids()
    ours = _ours(theirs)
    weight = ours.get_parameter(part)
    weight.copy_(weight.flip(0))
    assert (ours(ids) - theirs(ids).last_hidden_state).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 20), (8, 64)])
def test_relative_buckets_are_those_of_transformers(num_buckets: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    positions = torch.arange(300)
    offsets = positions[None, :] - positions[:, None]
    expected = T5Attention._relative_position_bucket(offsets, True, num_buckets, max_distance)
    assert torch.equal(relative_buckets(300, num_buckets, max_distance), expected)


@torch.no_grad()
def test_half_precision_keeps_the_same_linears_in_float32(tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    _theirs().save_pretrained(tmp_path)
    theirs = T5EncoderModel.from_pretrained(tmp_path, dtype=torch.float16).eval()
    kept = {name for name, p in theirs.named_parameters() if p.dtype == torch.float32}
    assert kept == {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}
    ours, ids = _ours(_theirs()).cast(torch.float16), _ids()
    for name, parameter in ours.named_parameters():
        assert parameter.dtype == (torch.float32 if name.endswith("mlp.down.weight") else torch.float16)
    for block, uncast in zip(ours.blocks, _ours(_theirs()).blocks, strict=True):
        assert torch.equal(block.mlp.down.weight, uncast.mlp.down.weight)  # not rounded on the way
    expected, result = theirs(ids).last_hidden_state, ours(ids)
    assert result.dtype == expected.dtype == torch.float16
    torch.testing.assert_close(result, expected, atol=HALF_TOLERANCE, rtol=0)


@torch.no_grad()
def test_what_the_float32_linears_are_for() -> None:
    """A feed-forward that leaves the range of float16 is right with the rule and wrong without it."""
    ours, ids = _ours(_theirs()), _ids()
    for block in ours.blocks:
        block.mlp.down.weight.mul_(3e6 / block.mlp.down.weight.abs().max())
    expected = ours(ids)
    with_rule = _copy(ours).cast(torch.float16)(ids)
    without = _copy(ours).half()(ids)
    scale = expected.abs().max()
    assert (with_rule - expected).abs().max() < 0.01 * scale
    assert not (without - expected).abs().max() < 0.1 * scale


def _copy(encoder: TextEncoder) -> TextEncoder:
    copy = TextEncoder(encoder.config)
    copy.load_state_dict(encoder.state_dict())
    return copy


def test_bfloat16_is_cast_whole() -> None:
    assert {p.dtype for p in _ours(_theirs()).cast(torch.bfloat16).parameters()} == {torch.bfloat16}


def test_xxl_has_the_published_shapes() -> None:
    from transformers import T5Config, T5EncoderModel

    published = T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
    )
    assert read_text_encoder(published.to_dict(), "config") == T5_XXL
    with torch.device("meta"):
        theirs, ours = T5EncoderModel(published), TextEncoder(T5_XXL)
    state = lazy_state({k: t for k, t in theirs.state_dict().items() if k != "encoder.embed_tokens.weight"})
    convert(state, TEXT_ENCODER_RULES, origin="xxl", expected={k: t.shape for k, t in ours.state_dict().items()})
    assert sum(p.numel() for p in ours.parameters()) == 4_762_310_656  # "about 4.76 B" in the model card
