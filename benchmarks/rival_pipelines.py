"""Whole pipelines on both sides, opened from one folder, and the same request to each.

Letters: C channels, T H W frames and pixels, t h w latent frames, rows, columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rival_weights import silence
from torch import Tensor

import cogworks
from cogworks.config.variants import Variant
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.prompts import PromptEncoder
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_transformer, load_vae, load_variant
from cogworks.weights.save import save_pretrained
from cogworks.weights.source import ModelFolder, resolve


@dataclass(frozen=True)
class PipelinePair:
    """One folder, opened by both."""

    ours: Pipeline
    theirs: Any


@dataclass(frozen=True)
class Asked:
    """A request to both pipelines, which begin from the same latents (1, t, C, h, w)."""

    prompt: str
    latents: Tensor
    steps: int
    guidance: float
    dynamic: bool
    num_frames: int
    height: int
    width: int


def open_both(
    folder: str | Path, dtype: torch.dtype | None = None, their_dtype: torch.dtype | None = None
) -> PipelinePair:
    """Open a bundled name or a folder with both libraries.

    Args:
        dtype, their_dtype: what to compute in; None leaves the choice to the library (diffusers' is float32).
    """
    from diffusers import CogVideoXPipeline

    silence()
    path = resolve(folder).path
    # Cast afterwards: left alone, transformers 5 keeps the text encoder as it is stored and diffusers widens the rest.
    theirs = CogVideoXPipeline.from_pretrained(path).to(their_dtype or torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = cogworks.load(folder, dtype=dtype, device="cpu")
    ours.load_networks()
    return PipelinePair(ours, theirs)


def ask(variant: Variant, seed: int, prompt: str, steps: int | None = None) -> Asked:
    """A request of the variant's own size."""
    defaults, stride = variant.defaults, variant.vae.spatial_stride
    latent_frames = (defaults.num_frames - 1) // variant.vae.temporal_stride + 1
    shape = (1, latent_frames, variant.vae.latent_channels, defaults.height // stride, defaults.width // stride)
    return Asked(
        prompt=prompt,
        latents=torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
        steps=steps or defaults.steps,
        guidance=defaults.guidance_scale,
        dynamic=defaults.dynamic_guidance,
        num_frames=defaults.num_frames,
        height=defaults.height,
        width=defaults.width,
    )


def generate_ours(pipe: Pipeline, asked: Asked) -> Tensor:
    """(1, T, 3, H, W) in [0, 1]. What was encoded before is forgotten first: the prompt is new to each run."""
    pipe.prompts = PromptEncoder(pipe.components)
    return torch.as_tensor(
        pipe.generate(
            asked.prompt,
            latents=asked.latents.clone(),
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            use_dynamic_cfg=asked.dynamic,
            num_frames=asked.num_frames,
            height=asked.height,
            width=asked.width,
            output_type="pt",
        )
    )


def generate_theirs(pipe: Any, asked: Asked) -> Tensor:
    """As `generate_ours`. The length of the prompt is said to them, whose default is 226 for every model."""
    return pipe(
        asked.prompt,
        latents=asked.latents.to(pipe.transformer.dtype, copy=True),
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance,
        use_dynamic_cfg=asked.dynamic,
        num_frames=asked.num_frames,
        height=asked.height,
        width=asked.width,
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
        output_type="pt",
    ).frames


def save_longer_text(folder: Path, text_tokens: int) -> Path:
    """The bundled model told to take prompts of another length: its weights do not depend on it."""
    source = resolve("tiny")
    variant = load_variant(source)
    longer = replace(variant, transformer=replace(variant.transformer, text_tokens=text_tokens))
    return save_variant(folder, longer, load_transformer(source, variant), load_vae(source, variant), source)


def save_variant(folder: Path, variant: Variant, transformer: Transformer, vae: VAE, text_from: ModelFolder) -> Path:
    """A folder that both libraries open, with the text encoder of another."""
    dtype = transformer.norm_final.weight.dtype
    save_pretrained(
        folder,
        variant,
        transformer=transformer,
        vae=vae,
        text_encoder=load_text_encoder(text_from, load_variant(text_from), dtype=dtype),
        tokenizer=load_tokenizer(text_from),
    )
    return folder
