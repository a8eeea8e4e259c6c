"""Both sides of every benchmark are one model: equal outputs, from weights that are all random, and found if not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from measure import Unequal, check_equal, check_near
from rival_pipelines import PipelinePair, ask, generate_ours, generate_theirs, open_both
from rival_transformers import (
    TransformerInputs,
    TransformerPair,
    block_calls,
    prepared_step,
    run_ours,
    runner_of_theirs,
    tiny_transformers,
    transformer_inputs,
    transformer_pair,
)
from rival_vaes import (
    VAEPair,
    decode_ours,
    decode_theirs,
    encode_ours,
    encode_theirs,
    random_clip,
    random_latents,
    tiny_vaes,
    vae_pair,
)
from torch import nn

from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import PUBLISHED, TINY

SIZE = (2, 4, 6)
SLIM = replace(TINY.vae, widths=(4, 4, 8, 8), latent_channels=4, layers_per_block=1)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def little(variant: str) -> TransformerConfig:
    """Few and narrow blocks of a published model, on the grid of `SIZE`."""
    published = PUBLISHED[variant].transformer
    return replace(
        published,
        num_layers=2,
        num_heads=2,
        head_width=16,
        text_width=24,
        text_tokens=7,
        time_width=16,
        ofs_width=published.ofs_width and 16,
        sample_size=SIZE[1:],
        sample_frames=5,
    )


@cache
def small_pair(variant: str) -> TransformerPair:
    return transformer_pair(little(variant), seed=1)


def inputs_for(pair: TransformerPair, **options: bool) -> TransformerInputs:
    return transformer_inputs(pair.config, SIZE, batch=2, seed=2, **options)


@torch.no_grad()
@pytest.mark.parametrize("variant", PUBLISHED)
def test_transformers_agree(variant: str) -> None:
    pair = small_pair(variant)
    inputs = inputs_for(pair)
    found = check_equal(run_ours(pair.ours, inputs), runner_of_theirs(pair.theirs, inputs)().transpose(1, 2))
    assert found.largest > 0.1


@torch.no_grad()
def test_one_other_weight_is_found() -> None:
    """The negative control of every comparison: the rival is refused."""
    pair = transformer_pair(little("cogvideox-5b"), seed=1)
    inputs = inputs_for(pair)
    pair.theirs.transformer_blocks[1].norm2.norm.bias[3] += 0.05
    with pytest.raises(Unequal, match="outputs differ"):
        check_equal(run_ours(pair.ours, inputs), runner_of_theirs(pair.theirs, inputs)().transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["cogvideox-2b", "cogvideox-5b"])
def test_rounded_transformers_agree(variant: str) -> None:
    """As on a GPU: made in bfloat16. The fixed table of 2B must not be made in it."""
    config = little(variant)
    pair = transformer_pair(config, seed=1, dtype=torch.bfloat16)
    inputs = transformer_inputs(config, SIZE, batch=2, seed=2, dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.bfloat16 for parameter in pair.ours.parameters())
    check_near(run_ours(pair.ours, inputs), runner_of_theirs(pair.theirs, inputs)().transpose(1, 2), 0.02)


@torch.no_grad()
def test_a_step_of_a_run_agrees() -> None:
    pair = small_pair("cogvideox-5b")
    inputs = inputs_for(pair, same_latents=True)
    assert torch.equal(inputs.latents[0], inputs.latents[1])
    check_equal(prepared_step(pair, inputs)(), runner_of_theirs(pair.theirs, inputs)().transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["cogvideox-2b", "cogvideox-5b"])
def test_blocks_agree_however_often_they_are_called(variant: str) -> None:
    calls = block_calls(small_pair(variant), inputs_for(small_pair(variant)))
    first = calls.ours()
    assert torch.equal(calls.ours(), first)  # nothing that is passed in is changed
    check_equal(first, calls.theirs())
    check_equal(first, calls.theirs())


@pytest.mark.parametrize("make", [lambda: small_pair("cogvideox-2b").theirs, lambda: vae_pair(SLIM, 1).theirs])
def test_no_parameter_is_constant(make: Callable[[], nn.Module]) -> None:
    for name, parameter in make().named_parameters():
        assert parameter.numel() == 1 or parameter.std() > 1e-3, name
        assert parameter.abs().max() > 1e-3, name


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: vae_pair(SLIM, 1), tiny_vaes], ids=["random", "tiny"])
def test_vaes_agree(make: Callable[[], VAEPair]) -> None:
    pair = make()
    latents = random_latents(pair.ours.config, 9, 16, 24, seed=3)
    assert latents.shape[2:] == (3, 2, 3)
    check_equal(decode_ours(pair.ours, latents), decode_theirs(pair.theirs, latents))
    pixels = random_clip(9, 16, 24, seed=3)
    check_equal(encode_ours(pair.ours, pixels), encode_theirs(pair.theirs, pixels))
    pair.theirs.decoder.conv_out.conv.bias[1] += 0.01
    with pytest.raises(Unequal):
        check_equal(decode_ours(pair.ours, latents), decode_theirs(pair.theirs, latents))


@torch.no_grad()
def test_the_bundled_transformer_agrees() -> None:
    pair = tiny_transformers()
    inputs = inputs_for(pair)
    check_equal(run_ours(pair.ours, inputs), runner_of_theirs(pair.theirs, inputs)().transpose(1, 2))


@pytest.fixture(scope="module")
def tiny() -> PipelinePair:
    return open_both("tiny")


@torch.no_grad()
def test_whole_pipelines_agree(tiny: PipelinePair) -> None:
    asked = replace(ask(TINY, 0, "a red circle moves right", steps=2), num_frames=1)
    asked = replace(asked, latents=asked.latents[:, :1])
    ours = generate_ours(tiny.ours, asked)
    assert ours.shape == (1, 1, 3, 64, 64)
    check_equal(ours, generate_theirs(tiny.theirs, asked))
    assert not torch.equal(ours, generate_ours(tiny.ours, replace(asked, prompt="a blue star grows")))
    with pytest.raises(Unequal):
        check_equal(generate_ours(tiny.ours, replace(asked, latents=asked.latents + 0.01)), ours)


@torch.no_grad()
def test_every_run_encodes_its_prompt(tiny: PipelinePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is new to each run on both sides: nothing that was remembered is measured."""
    monkeypatch.setenv("COGWORKS_PROMPT_CACHE", "0")
    asked = ask(TINY, 0, "a red circle moves right", steps=1)
    asked = replace(asked, num_frames=1, latents=asked.latents[:, :1])
    encoded: list[str] = []
    for side in (tiny.ours.components.text_encoder, tiny.theirs.text_encoder):
        side.register_forward_hook(lambda module, *seen: encoded.append(type(module).__name__))
    for _ in range(2):
        generate_ours(tiny.ours, asked)
        generate_theirs(tiny.theirs, asked)
    assert encoded.count("TextEncoder") >= 2
    assert encoded.count("T5EncoderModel") == 4
