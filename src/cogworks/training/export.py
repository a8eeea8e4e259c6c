"""From a run to a model: the weights of a checkpoint as files that `generate`, diffusers and the next run load."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cogworks.config.recipe import Recipe
from cogworks.extensions.lora import lora_pairs
from cogworks.training.safety.checkpoints import read_checkpoint
from cogworks.training.text_encoder.module import TextEncoderModule
from cogworks.training.transformer.module import LORA_NAME, TransformerModule
from cogworks.training.vae.module import VAEModule
from cogworks.weights.components import empty_text_encoder, empty_vae, open_text_encoder, open_vae
from cogworks.weights.lora_write import write_lora
from cogworks.weights.mapping import LazyTensor, State
from cogworks.weights.save import Content, write_diffusers
from cogworks.weights.storage import replacing_folder

MODEL = "model"
TrainingModule = TextEncoderModule | VAEModule | TransformerModule
LORA = "lora/pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder


def export(recipe: Recipe, module: TrainingModule, checkpoint: Path) -> Path:
    """Write what a checkpoint has learned into the run's folder, in place of what an earlier export left there.

    Args:
        module: of the recipe; it takes the checkpoint's weights.

    Returns:
        The folder of the model, or the file of the LoRA.

    Raises:
        RecipeError: the checkpoint cannot be read, or is of another run.
    """
    module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    dtype: torch.dtype = getattr(torch, recipe.save_dtype)
    folder = recipe.output / MODEL
    if isinstance(module, VAEModule):
        content = Content(module.variant, vae=_state(module.vae, dtype))
    elif isinstance(module, TextEncoderModule):
        content = Content(module.variant, text_encoder=_state(module.text_encoder, dtype), tokenizer=module.tokenizer)
    elif module.recipe.lora is None:
        content = _content(module, dtype)
    else:
        return _export_lora(module, recipe.output / LORA, dtype)
    with replacing_folder(folder) as new:
        write_diffusers(new, content)
    return folder


def _content(module: TransformerModule, dtype: torch.dtype) -> Content:
    """The transformer as trained, the other components as they were found."""
    model = module.model
    text = None if model.text_folder is None else open_text_encoder(model.text_folder)
    if text is None or module.recipe.train_text_encoder:
        assert model.text_encoder is not None
        text_state = _state(model.text_encoder, dtype)
    else:
        text_state = text.tensors(empty_text_encoder(model.variant))
    vae = None if model.vae_folder is None else open_vae(model.vae_folder, model.variant)
    return Content(
        model.variant,
        transformer=_state(module.transformer, dtype),
        vae=None if vae is None else vae.tensors(empty_vae(model.variant)),
        text_encoder=text_state,
        tokenizer=model.tokenizer,
    )


def _state(network: nn.Module, dtype: torch.dtype) -> State:
    def stored(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", dtype)

    return {
        key: LazyTensor(tensor.shape, dtype, partial(stored, tensor)) for key, tensor in network.state_dict().items()
    }


def _export_lora(module: TransformerModule, path: Path, dtype: torch.dtype) -> Path:
    pairs = [
        replace(pair, lora_a=pair.lora_a.to(dtype), lora_b=pair.lora_b.to(dtype))
        for pair in lora_pairs(module.transformer, LORA_NAME)
    ]
    write_lora(path, pairs, "diffusers", config=module.model.variant.transformer)
    return path
