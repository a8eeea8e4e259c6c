"""A small transformer, twice: diffusers' with every parameter perturbed, and ours with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cogworks.models.transformer import Transformer
from cogworks.weights.configs import TRANSFORMER_CLASS, read_transformer
from cogworks.weights.mapping import convert, lazy_state
from cogworks.weights.maps.diffusers import transformer_rules
from helpers.small_models import TRANSFORMER, VARIATIONS, perturb

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel

STRIDE = 8  # pixels per latent, which diffusers' rotary tables are asked for in


def transformer_pair(variation: str, **changes: Any) -> tuple[Transformer, CogVideoXTransformer3DModel]:
    """Ours and theirs. `changes` go into diffusers' configuration."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    theirs = CogVideoXTransformer3DModel(**{**TRANSFORMER, **VARIATIONS[variation], **changes})
    perturb(theirs, 7)
    ours = Transformer(read_transformer({**theirs.config, "_class_name": TRANSFORMER_CLASS}, "config")).eval()
    ours.load_state_dict(by_our_names(theirs.state_dict(), ours))
    return ours, theirs


def by_our_names(tensors: Mapping[str, Tensor], ours: Transformer) -> dict[str, Tensor]:
    """Parameters of diffusers, or their gradients, as ours."""
    rules = transformer_rules(ours.config)
    return {name: tensor.read() for name, tensor in convert(lazy_state(tensors), rules, origin="test").items()}


def run_theirs(
    theirs: CogVideoXTransformer3DModel,
    latents: Tensor,
    timesteps: Tensor,
    text_emb: Tensor,
    *,
    rope_size: tuple[int, int] | None = None,
) -> Tensor:
    """Their prediction, in our layout; the rotary table is made by their pipeline, from a size in pixels.

    `rope_size` replaces that size.
    """
    from diffusers import CogVideoXPipeline

    height, width = rope_size or (latents.shape[3] * STRIDE, latents.shape[4] * STRIDE)
    rope = None
    if theirs.config.use_rotary_positional_embeddings:
        pipeline = SimpleNamespace(transformer=theirs, vae_scale_factor_spatial=STRIDE)
        rope = CogVideoXPipeline._prepare_rotary_positional_embeddings(
            pipeline, height, width, latents.shape[2], torch.device("cpu")
        )
    ofs = None if theirs.config.ofs_embed_dim is None else latents.new_full((1,), 2.0)
    prediction = theirs(
        hidden_states=latents.transpose(1, 2),
        encoder_hidden_states=text_emb,
        timestep=timesteps,
        ofs=ofs,
        image_rotary_emb=rope,
        return_dict=False,
    )[0]
    return prediction.transpose(1, 2)
