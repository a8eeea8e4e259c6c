"""Configuration files of diffusers, to our dataclasses and back: transformer, VAE, noise schedule.

Source: `config.json` and `scheduler_config.json` of the published models (docs/parity.md#weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cogworks.config.architecture import (
    EDMScheduleConfig,
    PositionTable,
    Rope,
    ScheduleConfig,
    TransformerConfig,
    VAEConfig,
)
from cogworks.errors import WeightsError
from cogworks.weights.config_schema import Schema, build
from cogworks.weights.edm_configs import EDM_CLASS, read_edm_schedule, write_edm_schedule

TRANSFORMER_CLASS = "CogVideoXTransformer3DModel"
VAE_CLASS = "AutoencoderKLCogVideoX"
SAMPLERS: Mapping[str, Literal["ddim", "dpm"]] = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpm"}

_DOWN_BLOCK, _UP_BLOCK = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
_QK_NORM_EPS = 1e-6  # not in the file
_MLP_RATIO = 4  # not in the file
_PREDICTIONS: Mapping[str, Literal["v", "eps", "x0"]] = {"v_prediction": "v", "epsilon": "eps", "sample": "x0"}


_TRANSFORMER = Schema(
    classes=(TRANSFORMER_CLASS,),
    defaults={
        "attention_head_dim": 64,
        "in_channels": 16,
        "max_text_seq_length": 226,
        "norm_eps": 1e-5,
        "num_attention_heads": 30,
        "num_layers": 30,
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
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": False,
    },
    fixed={
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_elementwise_affine": True,
        "timestep_activation_fn": "silu",
    },
    ignored=("dropout",),
)

_VAE = Schema(
    classes=(VAE_CLASS,),
    defaults={
        "block_out_channels": [128, 256, 256, 512],
        "down_block_types": [_DOWN_BLOCK] * 4,
        "in_channels": 3,
        "invert_scale_latents": False,
        "latent_channels": 16,
        "layers_per_block": 3,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_height": 480,
        "sample_width": 720,
        "scaling_factor": 1.15258426,
        "temporal_compression_ratio": 4,
        "up_block_types": [_UP_BLOCK] * 4,
    },
    fixed={
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "shift_factor": None,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    },
    ignored=("force_upcast",),
)

# Defaults of the classes, which differ from every published file.
_SCHEDULE = Schema(
    classes=tuple(SAMPLERS),
    defaults={
        "beta_end": 0.012,
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "leading",
    },
    fixed={"beta_schedule": "scaled_linear", "set_alpha_to_one": True, "steps_offset": 0, "trained_betas": None},
    ignored=("clip_sample", "clip_sample_range", "sample_max_value"),  # the samplers accept them and never look
)


def read_transformer(config: Mapping[str, Any], origin: str) -> TransformerConfig:
    """`transformer/config.json` to ours. Raises WeightsError for another class or an unsupported value."""
    values = _TRANSFORMER.read(config, origin)
    patch_t = values["patch_size_t"]
    if patch_t is None and not values["patch_bias"]:
        raise WeightsError(f"{origin}: patch_bias is false without patch_size_t, which is not supported")
    rope, table = _positions(values, origin)
    return build(
        TransformerConfig,
        origin,
        num_layers=values["num_layers"],
        num_heads=values["num_attention_heads"],
        head_width=values["attention_head_dim"],
        in_channels=values["in_channels"],
        out_channels=values["out_channels"],
        patch_size=(patch_t or 1, values["patch_size"], values["patch_size"]),
        text_width=values["text_embed_dim"],
        text_tokens=values["max_text_seq_length"],
        time_width=values["time_embed_dim"],
        rope=rope,
        position_table=table,
        ofs_width=values["ofs_embed_dim"],
        sample_size=(values["sample_height"], values["sample_width"]),
        sample_frames=values["sample_frames"],
        temporal_stride=values["temporal_compression_ratio"],
        spatial_interpolation=values["spatial_interpolation_scale"],
        temporal_interpolation=values["temporal_interpolation_scale"],
        norm_eps=values["norm_eps"],
        norm_out_eps=values["norm_eps"],
    )


def _positions(values: Mapping[str, Any], origin: str) -> tuple[Rope, PositionTable]:
    rotary, learned = values["use_rotary_positional_embeddings"], values["use_learned_positional_embeddings"]
    sliced = values["patch_size_t"] is not None
    if not rotary and (learned or sliced):
        raise WeightsError(f"{origin}: a learned table or patch_size_t needs use_rotary_positional_embeddings")
    if not rotary:
        return "none", "sincos"
    return "slice" if sliced else "crop", "learned" if learned else "none"


def write_transformer(config: TransformerConfig) -> dict[str, Any]:
    """Ours to `transformer/config.json`.

    Raises:
        WeightsError: the file format cannot say what this configuration says.
    """
    patch_t, patch_h, patch_w = config.patch_size
    positions = {("none", "sincos"), ("crop", "none"), ("crop", "learned"), ("slice", "none"), ("slice", "learned")}
    for what, fits in (
        (f"patches of {patch_h} x {patch_w}", patch_h == patch_w),
        (
            f"rope {config.rope!r} with table {config.position_table!r}",
            (config.rope, config.position_table) in positions,
        ),
        (f"patches of {patch_t} latent frames with rope {config.rope!r}", patch_t == 1 or config.rope == "slice"),
        (f"mlp_ratio {config.mlp_ratio}", config.mlp_ratio == _MLP_RATIO),
        (f"qk_norm_eps {config.qk_norm_eps}", config.qk_norm_eps == _QK_NORM_EPS),
    ):
        if not fits:
            raise WeightsError(f"a diffusers folder cannot hold a transformer with {what}")
    values = {
        "attention_head_dim": config.head_width,
        "in_channels": config.in_channels,
        "max_text_seq_length": config.text_tokens,
        "norm_eps": config.norm_eps,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "ofs_embed_dim": config.ofs_width,
        "out_channels": config.out_channels,
        "patch_bias": config.rope != "slice",
        "patch_size": patch_h,
        "patch_size_t": patch_t if config.rope == "slice" else None,
        "sample_frames": config.sample_frames,
        "sample_height": config.sample_size[0],
        "sample_width": config.sample_size[1],
        "spatial_interpolation_scale": config.spatial_interpolation,
        "temporal_compression_ratio": config.temporal_stride,
        "temporal_interpolation_scale": config.temporal_interpolation,
        "text_embed_dim": config.text_width,
        "time_embed_dim": config.time_width,
        "use_learned_positional_embeddings": config.position_table == "learned",
        "use_rotary_positional_embeddings": config.rope != "none",
    }
    return _TRANSFORMER.write({"dropout": 0.0, **values}, TRANSFORMER_CLASS)


def read_vae(config: Mapping[str, Any], origin: str) -> VAEConfig:
    """`vae/config.json` to ours. Raises WeightsError for another class or an unsupported value."""
    values = _VAE.read(config, origin)
    blocks = {*values["down_block_types"], *values["up_block_types"]}
    if values["in_channels"] != values["out_channels"] or blocks != {_DOWN_BLOCK, _UP_BLOCK}:
        raise WeightsError(
            f"{origin}: only {_DOWN_BLOCK} and {_UP_BLOCK} with as many channels in as out are supported"
        )
    return build(
        VAEConfig,
        origin,
        widths=tuple(values["block_out_channels"]),
        latent_channels=values["latent_channels"],
        layers_per_block=values["layers_per_block"],
        norm_groups=values["norm_num_groups"],
        scaling_factor=values["scaling_factor"],
        invert_scale_latents=values["invert_scale_latents"],
        sample_size=(values["sample_height"], values["sample_width"]),
        image_channels=values["in_channels"],
        norm_eps=values["norm_eps"],
        temporal_stride=values["temporal_compression_ratio"],
    )


def write_vae(config: VAEConfig) -> dict[str, Any]:
    """Ours to `vae/config.json`."""
    values = {
        "block_out_channels": list(config.widths),
        "down_block_types": [_DOWN_BLOCK] * len(config.widths),
        "in_channels": config.image_channels,
        "invert_scale_latents": config.invert_scale_latents,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.image_channels,
        "sample_height": config.sample_size[0],
        "sample_width": config.sample_size[1],
        "scaling_factor": config.scaling_factor,
        "temporal_compression_ratio": config.temporal_stride,
        "up_block_types": [_UP_BLOCK] * len(config.widths),
    }
    return _VAE.write({"force_upcast": True, **values}, VAE_CLASS)


def read_schedule(config: Mapping[str, Any], origin: str) -> ScheduleConfig | EDMScheduleConfig:
    """`scheduler/scheduler_config.json` to ours. Raises WeightsError for another class or an unsupported value."""
    if config.get("_class_name") == EDM_CLASS:
        return read_edm_schedule(config, origin)
    values = _SCHEDULE.read(config, origin)
    return build(
        ScheduleConfig,
        origin,
        snr_shift=values["snr_shift_scale"],
        num_timesteps=values["num_train_timesteps"],
        beta_start=values["beta_start"],
        beta_end=values["beta_end"],
        prediction=_PREDICTIONS.get(values["prediction_type"], values["prediction_type"]),
        zero_terminal_snr=values["rescale_betas_zero_snr"],
        spacing=values["timestep_spacing"],
    )


def write_schedule(config: ScheduleConfig | EDMScheduleConfig, sampler: Literal["ddim", "dpm"]) -> dict[str, Any]:
    """Ours to `scheduler/scheduler_config.json`. SAT's spacing has no name there and becomes "trailing"."""
    if isinstance(config, EDMScheduleConfig):
        return write_edm_schedule(config)
    values = {
        "beta_end": config.beta_end,
        "beta_start": config.beta_start,
        "num_train_timesteps": config.num_timesteps,
        "prediction_type": next(name for name, ours in _PREDICTIONS.items() if ours == config.prediction),
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "snr_shift_scale": config.snr_shift,
        "timestep_spacing": "trailing" if config.spacing == "sat" else config.spacing,
    }
    clipping = {"clip_sample": False, "clip_sample_range": 1.0, "sample_max_value": 1.0}
    return _SCHEDULE.write({**clipping, **values}, next(name for name, ours in SAMPLERS.items() if ours == sampler))
