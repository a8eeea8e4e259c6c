"""A pipeline around the networks of a module, as they are at the moment, and the peace in which it works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from cogworks.config.measures import Measures
from cogworks.errors import RecipeError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.vae import VAE
from cogworks.pipelines.generate import Pipeline
from cogworks.weights.components import empty_text_encoder, empty_vae
from cogworks.weights.lazy import Form, LazyNetwork, M, OnBytes
from cogworks.weights.load import Components, Networks, load_text_encoder, load_vae
from cogworks.weights.source import ModelFolder

if TYPE_CHECKING:
    from cogworks.training.transformer.module import TransformerModule


def live_pipeline(module: TransformerModule) -> Pipeline:
    """A pipeline that computes with the networks of `module`, a LoRA included; nothing is copied.

    What the run does not hold, because its data are prepared, is read when it is first needed.
    """
    model, device = module.model, module.device
    folder = ModelFolder(module.recipe.output, "diffusers")
    components = Components(
        model.variant,
        folder,
        model.text_folder or folder,
        device,
        model.tokenizer,
        Networks(_text_encoder(module), _held("transformer", module.transformer), _vae(module)),
    )
    # On a CPU a plan of its own would change how the process allocates memory (`give_back_early`): the run's concern.
    measures = Measures() if device.type == "cpu" else None
    return Pipeline(components, measures=measures, model=str(module.recipe.output))


@contextmanager
def undisturbed(module: L.LightningModule) -> Iterator[None]:
    """The module in evaluation mode; afterwards its modes, places and all random states are what they were, bitwise."""
    modes = {part: part.training for part in module.modules()}
    device = module.device
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            module.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        module.to(device)  # a pipeline short of memory puts networks aside
        for part, training in modes.items():
            part.training = training


@contextmanager
def averaged_weights(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """The averaged weights in place of the current ones, where the run has an average."""
    average = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)), None)  # type: ignore[attr-defined]
    if average is None:
        yield
        return
    average.on_validation_epoch_start(trainer, module)  # swaps them, as Lightning does to validate
    try:
        yield
    finally:
        average.on_validation_epoch_end(trainer, module)


def _held(name: str, network: M) -> LazyNetwork[M]:
    """A network that is there."""
    form = _form(network, next(network.parameters()).dtype)
    held = LazyNetwork(name, lambda: form, lambda on_bytes: network)
    held.put(network)
    return held


def _text_encoder(module: TransformerModule) -> LazyNetwork[TextEncoder]:
    model, name = module.model, "text encoder"
    if model.text_encoder is not None:
        return _held(name, model.text_encoder)
    folder, dtype = model.text_folder, next(module.transformer.parameters()).dtype
    if folder is None:
        raise RecipeError("there is no text encoder to read prompts with: name one under text_encoder")
    form = _form(empty_text_encoder(model.variant), dtype)
    return LazyNetwork(
        name,
        lambda: form,
        lambda on_bytes: load_text_encoder(folder, model.variant, dtype=dtype, device=module.device),
    )


def _vae(module: TransformerModule) -> LazyNetwork[VAE]:
    model, name = module.model, "VAE"
    if model.vae is not None:
        return _held(name, model.vae)
    folder, dtype = model.vae_folder, next(module.transformer.parameters()).dtype
    form = _form(empty_vae(model.variant), dtype)

    def read(on_bytes: OnBytes) -> VAE:
        if folder is None:
            raise RecipeError("there is no VAE to make pictures with: name one under vae")
        return load_vae(folder, model.variant, dtype=dtype, device=module.device)

    return LazyNetwork(name, lambda: form, read)


def _form(network: nn.Module, dtype: torch.dtype) -> Form:
    return Form(dtype, sum(weight.numel() for weight in network.parameters()) * dtype.itemsize)
