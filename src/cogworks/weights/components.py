"""The weights of each component of a folder, by our names, whatever the layout; and the empty networks they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cogworks.config.variants import Variant
from cogworks.errors import WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.weights.files import DIFFUSERS_STEM, TRANSFORMERS_STEM, find_weights, open_weights
from cogworks.weights.mapping import LazyTensor, Rule, State, convert
from cogworks.weights.maps import diffusers, sat
from cogworks.weights.sat_files import find_sat
from cogworks.weights.sat_state import open_sat_transformer, open_sat_vae
from cogworks.weights.source import ModelFolder


@dataclass(frozen=True)
class Component:
    """The tensors of one file as it names them, and the table to our names.

    Attributes:
        origin: the file or folder, for messages.
    """

    state: State
    rules: Sequence[Rule]
    origin: str

    def tensors(self, network: nn.Module) -> dict[str, LazyTensor]:
        """The tensors by our names; nothing is read.

        Args:
            network: what they are for, on any device; only names and shapes are looked at.

        Raises:
            WeightsError: they do not fit `network`.
        """
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
        return convert(self.state, self.rules, origin=self.origin, expected=expected)


def empty_transformer(variant: Variant) -> Transformer:
    """The transformer on the meta device."""
    with torch.device("meta"), _Uninitialised():
        return Transformer(variant.transformer)


def empty_vae(variant: Variant) -> VAE:
    """The VAE on the meta device."""
    with torch.device("meta"), _Uninitialised():
        return VAE(variant.vae)


def empty_text_encoder(variant: Variant) -> TextEncoder:
    """The text encoder on the meta device."""
    with torch.device("meta"), _Uninitialised():
        return TextEncoder(variant.text_encoder)


def open_transformer(folder: ModelFolder, variant: Variant) -> Component:
    """The transformer's tensors. Raises WeightsError if the file is missing or damaged."""
    if folder.layout == "sat":
        path = find_sat(folder.path).transformer
        return Component(open_sat_transformer(path), sat.transformer_rules(variant.transformer), str(path))
    return _from_folder(
        folder.part("transformer"), DIFFUSERS_STEM, folder, diffusers.transformer_rules(variant.transformer)
    )


def open_vae(folder: ModelFolder, variant: Variant) -> Component:
    """The VAE's tensors. Raises WeightsError if the file is missing or damaged."""
    if folder.layout == "sat":
        path = find_sat(folder.path).vae
        if path is None:
            raise WeightsError(f"{folder.path} has no VAE: put it at vae/3d-vae.pt")
        return Component(open_sat_vae(path), sat.vae_rules(len(variant.vae.widths)), str(path))
    return _from_folder(folder.part("vae"), DIFFUSERS_STEM, folder, diffusers.VAE_RULES)


def open_text_encoder(folder: ModelFolder) -> Component:
    """The text encoder's tensors. Raises WeightsError if the file is missing or damaged."""
    place = folder.part("text_encoder")
    if folder.layout == "sat":
        found = find_sat(folder.path).text_encoder
        if found is None:
            raise WeightsError(
                f"{folder.path} has no text encoder: put it at t5-v1_1-xxl, or name another model that has it "
                "(text_encoder=)"
            )
        place = found
    return _from_folder(place, TRANSFORMERS_STEM, folder, diffusers.TEXT_ENCODER_RULES)


class _Uninitialised(TorchFunctionMode):
    """Modules are built without initial values.

    Drawing those on the meta device does nothing, but imports torch's compiler for it: 1.5 seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _from_folder(place: Path, stem: str, folder: ModelFolder, rules: Sequence[Rule]) -> Component:
    path = find_weights(place, stem, folder.file_variant)
    return Component(open_weights(path), rules, str(path))
