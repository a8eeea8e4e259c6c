"""The tables of names against the reference libraries: live diffusers and transformers, and goldens of SAT."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.architecture import TransformerConfig, VAEConfig
from cogworks.errors import WeightsError
from cogworks.models import vae as our_vae
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.transformer import Transformer
from cogworks.weights import configs, text_configs
from cogworks.weights.mapping import Rule, convert, lazy_state, reverse
from cogworks.weights.maps import diffusers, sat
from cogworks.weights.sat_state import merge_lora
from helpers.golden_weights import CONFIGS, load_golden, load_golden_transformer
from helpers.small_models import TRANSFORMER, VAE, VARIATIONS, perturb, t5_config

TOLERANCE = 2e-5  # two networks of two blocks in float32; activations up to 10


def _ours(state: Mapping[str, Tensor], rules: Sequence[Rule], network: nn.Module) -> dict[str, Tensor]:
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    tensors = convert(lazy_state(state), rules, origin="file", expected=expected)
    return {name: tensor.read() for name, tensor in tensors.items()}


def _diffusers_transformer(variation: str) -> tuple[nn.Module, TransformerConfig]:
    from diffusers import CogVideoXTransformer3DModel

    theirs = CogVideoXTransformer3DModel(**{**TRANSFORMER, **VARIATIONS[variation]})
    config = configs.read_transformer({**theirs.config, "_class_name": configs.TRANSFORMER_CLASS}, "config")
    return perturb(theirs, 7), config


@torch.no_grad()
def _run_both(theirs: nn.Module, ours: Transformer) -> tuple[Tensor, Tensor]:
    """Both networks on the same input of the training size, so that a learned table fits."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config = ours.config
    generator = torch.Generator().manual_seed(1)
    frames = 4 if config.patch_size[0] == 2 else 3
    latents = torch.randn(2, config.in_channels, frames, 8, 8, generator=generator)
    text = torch.randn(2, config.text_tokens, config.text_width, generator=generator)
    timesteps = torch.tensor([999, 417])
    ofs = torch.full((2,), 2.0) if config.ofs_width else None
    rope = None
    if config.rope == "crop":
        rope = get_3d_rotary_pos_embed(config.head_width, ((0, 0), (4, 4)), (4, 4), frames)
    elif config.rope == "slice":
        rope = get_3d_rotary_pos_embed(config.head_width, None, (4, 4), frames // 2, grid_type="slice", max_size=(4, 4))
    expected = theirs(latents.transpose(1, 2), text, timesteps, ofs=ofs, image_rotary_emb=rope, return_dict=False)[
        0
    ].transpose(1, 2)
    return ours(latents, timesteps, text, ofs), expected


@pytest.mark.parametrize("variation", VARIATIONS)
def test_diffusers_transformer_gives_the_same_output(variation: str) -> None:
    theirs, config = _diffusers_transformer(variation)
    ours = Transformer(config)
    ours.load_state_dict(_ours(theirs.state_dict(), diffusers.transformer_rules(config), ours))
    result, expected = _run_both(theirs, ours)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("wrong", ["modulation", "qkv", "patch"])
def test_a_wrong_table_is_seen_in_the_output(wrong: str) -> None:
    """Negative control: the same comparison fails when one row block of one rule is out of place."""
    theirs, config = _diffusers_transformer("5b")
    ours = Transformer(config)
    state = _ours(theirs.state_dict(), diffusers.transformer_rules(config), ours)
    name, blocks = {
        "modulation": ("modulations.1.weight", 12),
        "qkv": ("blocks.0.attention.qkv.weight", 3),
        "patch": ("patch_embed.proj.weight", 8),
    }[wrong]
    rows = list(state[name].chunk(blocks, dim=1 if wrong == "patch" else 0))
    rows[0], rows[1] = rows[1], rows[0]
    state[name] = torch.cat(rows, dim=1 if wrong == "patch" else 0)
    ours.load_state_dict(state)
    result, expected = _run_both(theirs, ours)
    assert (result - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("variation", VARIATIONS)
def test_diffusers_transformer_and_back_is_bitwise(variation: str) -> None:
    theirs, config = _diffusers_transformer(variation)
    rules = diffusers.transformer_rules(config)
    state = {key: t for key, t in theirs.state_dict().items() if _is_kept(key, config)}
    back = convert(lazy_state(_ours(state, rules, Transformer(config))), reverse(rules), origin="ours")
    assert set(back) == set(state)
    assert all(torch.equal(back[key].read(), tensor) for key, tensor in state.items())


def _is_kept(key: str, config: TransformerConfig) -> bool:
    return config.position_table == "learned" or key != "patch_embed.pos_embedding"


def test_a_stored_sincos_table_is_dropped() -> None:
    theirs, config = _diffusers_transformer("2b")
    state = {**theirs.state_dict(), "patch_embed.pos_embedding": torch.zeros(1, 64, 64)}
    _ours(state, diffusers.transformer_rules(config), Transformer(config))


def test_fused_projections_are_read() -> None:
    theirs, config = _diffusers_transformer("5b")
    rules, ours = diffusers.transformer_rules(config), Transformer(config)
    plain = _ours(theirs.state_dict(), rules, ours)
    theirs.fuse_qkv_projections()
    both = theirs.state_dict()
    assert any("to_qkv" in key for key in both)
    alone = {key: tensor for key, tensor in both.items() if not any(f"to_{n}." in key for n in "qkv")}
    for state in (both, alone):
        fused = _ours(state, rules, ours)
        assert all(torch.equal(fused[name], tensor) for name, tensor in plain.items())


def test_diffusers_vae_gives_the_same_pixels_and_returns_bitwise() -> None:
    from diffusers import AutoencoderKLCogVideoX

    theirs = perturb(AutoencoderKLCogVideoX(**VAE), 3)
    config = configs.read_vae({**theirs.config, "_class_name": configs.VAE_CLASS}, "config")
    ours = our_vae.VAE(config)
    state = theirs.state_dict()
    ours.load_state_dict(_ours(state, diffusers.VAE_RULES, ours))
    latents = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected, result = theirs.decode(latents).sample, ours.decode(latents)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)  # about 20 convolutions, values up to 30
    back = convert(lazy_state(ours.state_dict()), reverse(diffusers.VAE_RULES), origin="ours")
    assert set(back) == set(state)
    assert all(torch.equal(back[key].read(), tensor) for key, tensor in state.items())


def test_text_encoder_in_both_spellings() -> None:
    from transformers import T5EncoderModel

    theirs = perturb(T5EncoderModel(t5_config()), 5)
    config = text_configs.read_text_encoder(theirs.config.to_dict(), "config")
    ours = TextEncoder(config)
    state = theirs.state_dict()
    first = {key: tensor for key, tensor in state.items() if key != "encoder.embed_tokens.weight"}
    second = {key: tensor for key, tensor in state.items() if key != "shared.weight"}
    full = {**state, "decoder.block.0.layer.0.layer_norm.weight": torch.zeros(3), "lm_head.weight": torch.zeros(3)}
    loaded = [_ours(s, diffusers.TEXT_ENCODER_RULES, ours) for s in (first, second, full)]
    assert all(torch.equal(loaded[0][name], other[name]) for other in loaded[1:] for name in ours.state_dict())
    back = convert(lazy_state(loaded[0]), reverse(diffusers.TEXT_ENCODER_RULES), origin="ours")
    assert set(back) == set(first)
    assert all(torch.equal(back[key].read(), tensor) for key, tensor in first.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_sat_transformer_is_the_golden_network(name: str) -> None:
    """The table agrees with the separate one of the test helpers, with which the goldens' outputs are reproduced."""
    config, golden = CONFIGS[name], load_golden(f"dit_{name}.weights")
    expected = load_golden_transformer(name)
    ours = _ours(golden, sat.transformer_rules(config), expected)
    assert all(torch.equal(ours[key], tensor) for key, tensor in expected.state_dict().items())
    back = convert(lazy_state(ours), reverse(sat.transformer_rules(config)), origin="ours")
    gone = {key for key in golden if key not in back}
    assert gone <= {
        "mixins.pos_embed.freqs_cos",
        "mixins.pos_embed.freqs_sin",
        "transformer.position_embeddings.weight",
        *([] if config.position_table == "learned" else ["mixins.pos_embed.pos_embedding"]),
    }
    assert all(torch.equal(back[key].read(), golden[key]) for key in back)


def test_sat_vae_reproduces_the_golden_moments_and_returns_bitwise() -> None:
    golden = load_golden("vae.weights")
    config = _golden_vae_config()
    ours, rules = our_vae.VAE(config), sat.vae_rules(4)
    ours.load_state_dict({key: t.float() for key, t in _ours(golden, rules, ours).items()})
    arrays = load_golden("vae_v1.io")
    with torch.no_grad():
        decoded = ours.decode(arrays["in.latent_L3"])
    torch.testing.assert_close(decoded, arrays["out.decode_chunked_L3"], atol=1.5e-4, rtol=0)  # golden README
    back = convert(lazy_state(_ours(golden, rules, ours)), reverse(rules), origin="ours")
    assert set(back) == set(golden)
    assert all(torch.equal(back[key].read(), tensor) for key, tensor in golden.items())


def _golden_vae_config() -> VAEConfig:
    return VAEConfig(
        widths=(32, 64, 32, 32),
        latent_channels=4,
        layers_per_block=1,
        norm_groups=32,
        scaling_factor=0.7,
        invert_scale_latents=False,
        sample_size=(32, 24),
    )


def _with_lora(name: str) -> dict[str, Tensor]:
    """The golden checkpoint as SAT writes it with LoRA: weights one level down, factors beside them."""
    state = load_golden(f"dit_{name}.weights")
    lora = {k.removeprefix("lora."): t for k, t in load_golden("lora_t2v_rope_r4").items() if k.startswith("lora.")}
    modules = {key.split(".matrix_")[0] for key in lora}

    def moved(key: str) -> str:
        module, _, parameter = key.rpartition(".")
        return f"{module}.original.{parameter}" if module in modules else key

    return {moved(key): tensor for key, tensor in state.items()} | lora


def test_sat_lora_is_merged_as_sat_merges_it() -> None:
    config, arrays = CONFIGS["t2v_rope"], load_golden("lora_t2v_rope_r4")
    merged = merge_lora(lazy_state(_with_lora("t2v_rope")), "file")
    assert set(merged) == set(load_golden("dit_t2v_rope.weights"))
    weight = merged["transformer.layers.0.attention.query_key_value.weight"].read()
    torch.testing.assert_close(weight, arrays["merged.layer0.query_key_value.weight"], atol=1e-7, rtol=0)
    ours = Transformer(config)
    tensors = {key: tensor.read() for key, tensor in merged.items()}
    ours.load_state_dict(_ours(tensors, sat.transformer_rules(config), ours))
    io = load_golden("dit_t2v_rope.io")
    with torch.no_grad():
        result = ours(io["in.x"].transpose(1, 2), io["in.timesteps"], io["in.context"]).transpose(1, 2)
    torch.testing.assert_close(result, arrays["out.output_with_lora"], atol=1e-5, rtol=0)  # golden README
    assert (result - arrays["out.output_base"]).abs().max() > 0.1  # negative control: unmerged is far away


def test_sat_lora_that_does_not_fit_is_an_error() -> None:
    state = _with_lora("t2v_rope")
    module = "transformer.layers.1.attention.dense"
    with pytest.raises(WeightsError, match=f"{module} has LoRA factors without a partner"):
        merge_lora(lazy_state({k: t for k, t in state.items() if k != f"{module}.matrix_B.0"}), "file")
    with pytest.raises(WeightsError, match=f"{module} has LoRA factors that do not fit"):
        merge_lora(lazy_state({**state, f"{module}.matrix_B.0": torch.zeros(63, 4)}), "file")


def test_rules_depend_on_the_patch_size_only() -> None:
    """A network of another depth has the same table: templates, not lists."""
    config = CONFIGS["t2v_rope"]
    deeper = replace(config, num_layers=9)
    names = {target for rule in sat.transformer_rules(deeper) for target in rule.targets}
    assert names == {target for rule in sat.transformer_rules(config) for target in rule.targets}
