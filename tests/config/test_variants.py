"""The table of variants against the published configuration files and diffusers' classes, at full size.

The values of the published files stand here once more, as they were published; networks are built on the meta device.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cogworks.config.architecture import TransformerConfig, VAEConfig
from cogworks.config.variants import (
    BUNDLED,
    COGVIDEOX_2B,
    COGVIDEOX_5B,
    COGVIDEOX_15_5B,
    PUBLISHED,
    T5_XXL,
    VARIANTS,
    Variant,
)
from cogworks.weights import configs
from cogworks.weights.components import empty_transformer, empty_vae
from cogworks.weights.mapping import convert, lazy_state, reverse
from cogworks.weights.maps import diffusers as tables

TRANSFORMER = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 48,
    "num_layers": 42,
    "ofs_embed_dim": None,
    "out_channels": 16,
    "patch_bias": True,
    "patch_size": 2,
    "patch_size_t": None,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": True,
}
_15 = {"patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300, "sample_frames": 81}
CHANGES: dict[str, dict[str, Any]] = {
    "cogvideox-2b": {"num_layers": 30, "num_attention_heads": 30, "use_rotary_positional_embeddings": False},
    "cogvideox-5b": {},
    "cogvideox-5b-i2v": {"in_channels": 32, "use_learned_positional_embeddings": True},
    "cogvideox1.5-5b": _15,
    "cogvideox1.5-5b-i2v": {**_15, "in_channels": 32, "ofs_embed_dim": 512},
}
PARAMETERS = {  # of the model cards; the learned table of 5B-I2V is a buffer in diffusers and a parameter here
    "cogvideox-2b": 1_693_783_872,
    "cogvideox-5b": 5_570_283_072,
    "cogvideox-5b-i2v": 5_570_479_680 + 17_776 * 3072,
    "cogvideox1.5-5b": 5_570_676_352,
    "cogvideox1.5-5b-i2v": 5_571_594_880,
}
VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 3,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_height": 480,
    "sample_width": 720,
    "shift_factor": None,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}

every_published = pytest.mark.parametrize("name", PUBLISHED)


def _values(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _published_transformer(name: str) -> dict[str, Any]:
    return {**TRANSFORMER, **CHANGES[name]}


@every_published
def test_rows_say_what_the_published_files_say(name: str) -> None:
    variant = PUBLISHED[name]
    assert _values(configs.write_transformer(variant.transformer)) == _published_transformer(name)
    scaling = 1.15258426 if name == "cogvideox-2b" else 0.7
    image_scaling = {"scaling_factor": scaling, "invert_scale_latents": "1.5" in name}
    assert _values(configs.write_vae(variant.vae)) == {**VAE, **image_scaling}
    shift = {"snr_shift_scale": 3.0 if name == "cogvideox-2b" else 1.0}
    assert _values(configs.write_schedule(variant.schedule, variant.defaults.sampler)) == {**SCHEDULER, **shift}
    assert variant.text_encoder == T5_XXL


@every_published
def test_every_parameter_has_its_place_in_diffusers(name: str) -> None:
    """Names, through the table of names, and shapes, in both directions."""
    from diffusers import CogVideoXTransformer3DModel

    variant = PUBLISHED[name]
    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel(**_published_transformer(name))
    ours, rules = empty_transformer(variant), tables.transformer_rules(variant.transformer)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    converted = convert(lazy_state(theirs.state_dict()), rules, origin=name, expected=shapes)
    assert converted.keys() == shapes.keys()
    back = convert(lazy_state(ours.state_dict()), reverse(rules), origin=name)
    assert {key: tensor.shape for key, tensor in back.items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }


@every_published
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    network = empty_transformer(PUBLISHED[name])
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    block = sum(p.numel() for part in (network.blocks[0], network.modulations[0]) for p in part.parameters())
    assert block == (56_081_536 if name == "cogvideox-2b" else 132_197_632)


def test_a_wrong_row_is_seen() -> None:
    """Negative control: one head less, and the same comparison of shapes fails."""
    from diffusers import CogVideoXTransformer3DModel

    from cogworks.errors import WeightsError

    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel(**_published_transformer("cogvideox-5b"))
    wrong = replace(COGVIDEOX_5B, transformer=replace(COGVIDEOX_5B.transformer, num_heads=47))
    shapes = {key: tensor.shape for key, tensor in empty_transformer(wrong).state_dict().items()}
    with pytest.raises(WeightsError, match="of the wrong shape"):
        convert(
            lazy_state(theirs.state_dict()), tables.transformer_rules(wrong.transformer), origin="x", expected=shapes
        )


def test_the_vae_has_its_place_in_diffusers() -> None:
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX(**VAE)
    ours = empty_vae(COGVIDEOX_2B)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert (
        convert(lazy_state(theirs.state_dict()), tables.VAE_RULES, origin="vae", expected=shapes).keys()
        == shapes.keys()
    )
    back = convert(lazy_state(ours.state_dict()), reverse(tables.VAE_RULES), origin="vae")
    assert {key: tensor.shape for key, tensor in back.items()} == {k: t.shape for k, t in theirs.state_dict().items()}
    counts = [sum(p.numel() for p in part.parameters()) for part in (ours.encoder, ours.decoder)]
    assert counts == [92_215_456, 123_368_451]


@every_published
def test_both_schedulers_of_diffusers_accept_the_row(name: str) -> None:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

    for kind, sampler in ((CogVideoXDDIMScheduler, "ddim"), (CogVideoXDPMScheduler, "dpm")):
        config = configs.write_schedule(PUBLISHED[name].schedule, sampler)
        built = dict(kind.from_config(config).config)
        assert _values(built) == _values(config)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_rows_are_consistent(variant: Variant) -> None:
    transformer, vae, defaults = variant.transformer, variant.vae, variant.defaults
    assert VARIANTS[variant.name] is variant
    assert transformer.out_channels == vae.latent_channels
    assert transformer.text_width == variant.text_encoder.width
    assert transformer.temporal_stride == vae.temporal_stride
    assert variant.takes_image == (transformer.in_channels == 2 * transformer.out_channels)
    for size, patch in ((defaults.height, transformer.patch_size[1]), (defaults.width, transformer.patch_size[2])):
        assert size % (vae.spatial_stride * patch) == 0
    assert (defaults.num_frames - 1) % vae.temporal_stride == 0
    assert 1000 % defaults.steps == 0  # where every rule for the next timestep agrees


def test_published_and_bundled_models_are_told_apart() -> None:
    assert all(variant.hub_id for variant in PUBLISHED.values())
    assert not any(variant.hub_id for variant in BUNDLED.values())
    assert {**PUBLISHED, **BUNDLED} == VARIANTS


def test_sizes_that_follow_from_the_rows() -> None:
    two, fifteen = COGVIDEOX_2B.transformer, COGVIDEOX_15_5B.transformer
    assert (two.width, two.sample_grid, two.sample_latent_frames) == (1920, (30, 45), 13)
    assert two.text_tokens + 13 * 30 * 45 == 17_776  # rows of the learned table of 5B-I2V
    assert fifteen.width == 3072
    assert COGVIDEOX_2B.vae.spatial_stride == 8


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (COGVIDEOX_5B.transformer, {"in_channels": 24}, "in_channels must be 16 or 32, got 24"),
        (COGVIDEOX_5B.transformer, {"head_width": 60}, "head_width must be a multiple of 8, got 60"),
        (COGVIDEOX_5B.vae, {"norm_groups": 48}, "width 128 is not divisible by norm_groups 48"),
        (COGVIDEOX_5B.vae, {"temporal_stride": 3}, "temporal_stride must be a power of two"),
    ],
)
def test_impossible_configurations_are_refused(
    config: TransformerConfig | VAEConfig, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **change)
