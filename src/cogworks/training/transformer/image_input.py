"""A text-to-video model becomes one of image to video: the image's latents are further input channels.

Their weights begin at zero, so that the model begins as what it was. Source: CogVideoX, arXiv:2408.06072, section on
image to video; SAT's fine-tuning from the text-to-video weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from cogworks.config.variants import Variant
from cogworks.errors import RecipeError
from cogworks.models.transformer import Transformer
from cogworks.weights.components import empty_transformer
from cogworks.weights.variant_files import known_variant


def taking_image(variant: Variant) -> Variant:
    """The image-to-video model that a text-to-video model becomes.

    Raises:
        RecipeError: it takes an image already.
    """
    if variant.takes_image:
        raise RecipeError(f"{variant.name} takes an image already: leave add_image_input out")
    transformer = variant.transformer
    wider = replace(transformer, in_channels=transformer.in_channels + transformer.out_channels)
    known = known_variant(wider, variant.vae, variant.schedule)
    row = replace(variant, name=f"{variant.name}-with-image") if known is None else known
    return replace(row, hub_id=None, transformer=wider, text_encoder=variant.text_encoder)


def with_image_input(transformer: Transformer, variant: Variant) -> Transformer:
    """The same network with the input channels of `variant`; the new ones change nothing yet."""
    state = transformer.state_dict()
    weight = state["patch_embed.proj.weight"]  # (D, C pt ph pw), channel slowest
    wider = empty_transformer(variant)
    missing = wider.patch_embed.proj.weight.shape[1] - weight.shape[1]
    state["patch_embed.proj.weight"] = torch.cat([weight, weight.new_zeros(len(weight), missing)], dim=1)
    wider.load_state_dict(state, assign=True)
    return wider
