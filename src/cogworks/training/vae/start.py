"""What a VAE run begins with: the network of a model or a new one, and the codec that shows it the way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cogworks.config.training_data import ShapesData
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import Variant
from cogworks.models.vae import VAE
from cogworks.models.vae_blocks import DecoderBlock, EncoderBlock
from cogworks.training.clips.batches import to_batch
from cogworks.training.clips.shapes_clips import shapes_clip
from cogworks.training.transformer.start import variant_called
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.weights.load import load_vae, load_variant
from cogworks.weights.source import resolve
from cogworks.weights.storage import replacing

CODEC = "codec.safetensors"
INITIAL_LOGVAR = -6.0  # the posterior begins narrow: its noise must not drown the first latents


@dataclass(frozen=True)
class TrainingVAE:
    """A VAE to train.

    Attributes:
        variant: what it belongs to.
        vae: in training mode, float32, on the CPU.
        codec: whose latents it begins with; None where it finds its own.
    """

    variant: Variant
    vae: VAE
    codec: LinearCodec | None


def build_vae(recipe: VAERecipe) -> TrainingVAE:
    """The network of a recipe; from nothing its weights are drawn from the seed.

    The codec is fitted the first time it is asked for, and kept in the folder of the run.

    Raises:
        RecipeError: the variant is unknown.
        WeightsError: the model is not there or damaged.
    """
    if recipe.model is None:
        assert recipe.variant is not None  # the recipe has a model or a variant
        variant = variant_called(recipe.variant)
        vae = new_vae(variant, recipe.seed)
    else:
        folder = resolve(recipe.model)
        variant = load_variant(folder)
        vae = load_vae(folder, variant, dtype=torch.float32).train()
    codec = None
    if recipe.codec is not None:
        assert isinstance(recipe.data, ShapesData)  # the recipe allows no other beside a codec
        codec = fitted_codec(recipe.output / CODEC, recipe.data, recipe.codec.clips, variant.vae.latent_channels)
    return TrainingVAE(variant, vae, codec)


def new_vae(variant: Variant, seed: int) -> VAE:
    """A network drawn from `seed`, whose posterior is narrow."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = VAE(variant.vae)
    channels = variant.vae.latent_channels
    with torch.no_grad():
        vae.encoder.conv_out.bias[channels:] = INITIAL_LOGVAR
        vae.encoder.conv_out.weight[channels:].mul_(0.1)
    return vae


def fitted_codec(path: Path, data: ShapesData, clips: int, channels: int) -> LinearCodec:
    """The codec at `path`, fitted to the first `clips` clips of the world where there is none yet."""
    if not path.exists():
        pixels = to_batch([shapes_clip(data, index)[0] for index in range(clips)])
        with replacing(path) as temporary:  # other processes of the run may write the same
            LinearCodec.fit(pixels, channels).save(temporary)
    return LinearCodec.load(path)


def lighten(vae: VAE, *, compiled: bool, checkpointed: bool) -> None:
    """Compile each residual block, and compute its activations again in the backward pass instead of keeping them.

    What is not in a block stays as it is: the adaptive weight differentiates the last convolution by itself.
    """
    for block in vae.modules():
        if isinstance(block, EncoderBlock | DecoderBlock):
            if compiled:
                block.compile()
            if checkpointed:
                _checkpoint(block)


def _checkpoint(block: nn.Module) -> None:
    # On the instance, so that the names of the weights stay. `preserve_rng_state`: a block draws nothing.
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
