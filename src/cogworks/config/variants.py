"""The table of variants: the five published models and the bundled ones.

A row shows only how it differs from the row it is derived from. Sources: the published configuration files
and the model cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cogworks.config.architecture import (
    EDMScheduleConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What a request gets where it says nothing. Sizes in pixels."""

    height: int
    width: int
    num_frames: int
    fps: int
    steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Literal["ddim", "dpm"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model: its networks, its noise schedule and its defaults.

    Attributes:
        hub_id: where the published weights are; None for a bundled model.
        dtype: what the published weights are computed in.
        unconditional: what guidance subtracts: the encoded empty string, or zeros (as SAT trained).
    """

    name: str
    hub_id: str | None
    dtype: Literal["float32", "float16", "bfloat16"]
    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: TextEncoderConfig
    schedule: ScheduleConfig | EDMScheduleConfig
    defaults: GenerationDefaults
    unconditional: Literal["empty", "zeros"] = "empty"

    @property
    def takes_image(self) -> bool:
        return self.transformer.takes_image


T5_XXL = TextEncoderConfig(vocab_size=32128, width=4096, head_width=64, num_heads=64, num_layers=24, mlp_width=10240)

COGVIDEOX_2B = Variant(
    name="cogvideox-2b",
    hub_id="THUDM/CogVideoX-2b",
    dtype="float16",
    transformer=TransformerConfig(
        num_layers=30,
        num_heads=30,
        head_width=64,
        in_channels=16,
        out_channels=16,
        patch_size=(1, 2, 2),
        text_width=4096,
        text_tokens=226,
        time_width=512,
        rope="none",
        position_table="sincos",
        ofs_width=None,
        sample_size=(60, 90),
        sample_frames=49,
    ),
    vae=VAEConfig(
        widths=(128, 256, 256, 512),
        latent_channels=16,
        layers_per_block=3,
        norm_groups=32,
        scaling_factor=1.15258426,
        invert_scale_latents=False,
        sample_size=(480, 720),
    ),
    text_encoder=T5_XXL,
    schedule=ScheduleConfig(snr_shift=3.0),
    defaults=GenerationDefaults(
        height=480,
        width=720,
        num_frames=49,
        fps=8,
        steps=50,
        guidance_scale=6.0,
        dynamic_guidance=False,
        sampler="ddim",
    ),
)

COGVIDEOX_5B = replace(
    COGVIDEOX_2B,
    name="cogvideox-5b",
    hub_id="THUDM/CogVideoX-5b",
    dtype="bfloat16",
    transformer=replace(COGVIDEOX_2B.transformer, num_layers=42, num_heads=48, rope="crop", position_table="none"),
    vae=replace(COGVIDEOX_2B.vae, scaling_factor=0.7),
    schedule=ScheduleConfig(snr_shift=1.0),
    defaults=replace(COGVIDEOX_2B.defaults, dynamic_guidance=True, sampler="dpm"),
)

COGVIDEOX_5B_I2V = replace(
    COGVIDEOX_5B,
    name="cogvideox-5b-i2v",
    hub_id="THUDM/CogVideoX-5b-I2V",
    transformer=replace(COGVIDEOX_5B.transformer, in_channels=32, position_table="learned"),
)

COGVIDEOX_15_5B = replace(
    COGVIDEOX_5B,
    name="cogvideox1.5-5b",
    hub_id="THUDM/CogVideoX1.5-5B",
    transformer=replace(
        COGVIDEOX_5B.transformer, patch_size=(2, 2, 2), rope="slice", sample_size=(300, 300), sample_frames=81
    ),
    vae=replace(COGVIDEOX_5B.vae, invert_scale_latents=True),
    defaults=replace(COGVIDEOX_5B.defaults, height=768, width=1360, num_frames=81, fps=16),
)

COGVIDEOX_15_5B_I2V = replace(
    COGVIDEOX_15_5B,
    name="cogvideox1.5-5b-i2v",
    hub_id="THUDM/CogVideoX1.5-5B-I2V",
    transformer=replace(COGVIDEOX_15_5B.transformer, in_channels=32, ofs_width=512),
)

TINY = replace(
    COGVIDEOX_5B,
    name="tiny",
    hub_id=None,
    dtype="float32",
    transformer=replace(
        COGVIDEOX_5B.transformer,
        num_layers=6,
        in_channels=24,
        out_channels=24,
        num_heads=6,
        head_width=32,
        text_width=128,
        text_tokens=32,
        time_width=128,
        sample_size=(8, 8),
        sample_frames=17,
    ),
    vae=replace(
        COGVIDEOX_5B.vae,
        widths=(16, 16, 32, 64),
        latent_channels=24,
        layers_per_block=1,
        norm_groups=2,
        scaling_factor=1.0,
        sample_size=(128, 128),
    ),
    text_encoder=TextEncoderConfig(vocab_size=512, width=128, head_width=32, num_heads=4, num_layers=2, mlp_width=256),
    schedule=ScheduleConfig(snr_shift=1.0),
    defaults=GenerationDefaults(
        height=64, width=64, num_frames=17, fps=8, steps=25, guidance_scale=3.0, dynamic_guidance=False, sampler="ddim"
    ),
)

TINY_I2V = replace(
    TINY,
    name="tiny-i2v",
    transformer=replace(TINY.transformer, in_channels=48),
    # More of it keeps outlines in fast motion, and costs likeness to the image (docs/bundled-models.md).
    defaults=replace(TINY.defaults, guidance_scale=4.0),
)

PUBLISHED = {v.name: v for v in (COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_I2V, COGVIDEOX_15_5B, COGVIDEOX_15_5B_I2V)}
BUNDLED = {v.name: v for v in (TINY, TINY_I2V)}
VARIANTS = {**PUBLISHED, **BUNDLED}
