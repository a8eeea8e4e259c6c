"""From a run to a model: the averaged weights of a checkpoint as a diffusers folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cogworks.config.recipe import TransformerRecipe, VAERecipe
from cogworks.config.variants import Variant
from cogworks.errors import RecipeError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.weights.save import save_pretrained

CHECKPOINT = "last.ckpt"
MODEL = "model"
VOCABULARY = "spiece.model"

N = TypeVar("N", bound=nn.Module)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of Lightning, memory-mapped. Its `state_dict` holds the averaged weights."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def export(recipe: VAERecipe | TransformerRecipe, variant: Variant, folder: Path) -> Path:
    """Write what a run has learned to `folder`, in float16, in place of what an earlier export left there.

    The model of a transformer run has the VAE of the run that it names.

    Raises:
        RecipeError: a run that is needed has no checkpoint.
    """
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    if isinstance(recipe, VAERecipe):
        save_pretrained(new, variant, vae=averaged(recipe.output, "vae", VAE(variant.vae)).half())
    else:
        save_pretrained(
            new,
            variant,
            transformer=averaged(recipe.output, "transformer", Transformer(variant.transformer)).half(),
            text_encoder=averaged(recipe.output, "text_encoder", TextEncoder(variant.text_encoder)).half(),
            vae=averaged(recipe.vae, "vae", VAE(variant.vae)).half(),
            tokenizer=Tokenizer(recipe.output / VOCABULARY),
        )
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def averaged_state(run: Path) -> dict[str, Tensor]:
    """The averaged weights in a run's last checkpoint. Raises RecipeError if it has none."""
    path = run / CHECKPOINT
    if not path.exists():
        raise RecipeError(f"{run} has no {CHECKPOINT}: run its recipe first")
    state: dict[str, Tensor] = read_checkpoint(path)["state_dict"]
    return state


def averaged(run: Path, name: str, network: N) -> N:
    """Fill `network` with the averaged weights that the run calls `name`."""
    prefix = f"{name}."
    weights = averaged_state(run)
    network.load_state_dict({key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)})
    return network
