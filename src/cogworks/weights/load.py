"""Networks from a folder, now or at their first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from cogworks.config.measures import Quantization
from cogworks.config.variants import Variant
from cogworks.errors import WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.weights.components import (
    Component,
    empty_text_encoder,
    empty_transformer,
    empty_vae,
    open_text_encoder,
    open_transformer,
    open_vae,
)
from cogworks.weights.fill import Packing, fill, inspect
from cogworks.weights.lazy import Form, LazyNetwork, M
from cogworks.weights.sat_files import find_sat
from cogworks.weights.sat_state import infer_sat_variant
from cogworks.weights.source import ModelFolder, resolve
from cogworks.weights.spiece import read_spiece
from cogworks.weights.variant_files import read_diffusers_variant


class Networks(NamedTuple):
    """The networks of a model, in the order of their work."""

    text_encoder: LazyNetwork[TextEncoder]
    transformer: LazyNetwork[Transformer]
    vae: LazyNetwork[VAE]


@dataclass
class Components:
    """A model. Its networks are read when they are first used.

    `transformer`, `vae` and `text_encoder` are there to be looked into, changed, extended and replaced: a network that
    was taken from here stays in memory. Whoever only computes takes it from `networks`.

    Attributes:
        variant: what it is.
        folder: where it is from.
        text_folder: where its text encoder and tokenizer are from.
        device: where the networks work.
        packing: how the transformer holds its weights, where that is not as it is published.
    """

    variant: Variant
    folder: ModelFolder
    text_folder: ModelFolder
    device: torch.device
    tokenizer: Tokenizer
    networks: Networks
    packing: Packing | None = None

    @property
    def transformer(self) -> Transformer:
        return self.networks.transformer.lend()

    @transformer.setter
    def transformer(self, network: Transformer) -> None:
        self.networks.transformer.put(network)

    @property
    def vae(self) -> VAE:
        return self.networks.vae.lend()

    @vae.setter
    def vae(self, network: VAE) -> None:
        self.networks.vae.put(network)

    @property
    def text_encoder(self) -> TextEncoder:
        return self.networks.text_encoder.lend()

    @text_encoder.setter
    def text_encoder(self, network: TextEncoder) -> None:
        self.networks.text_encoder.put(network)

    @property
    def dtype(self) -> torch.dtype:
        """What the transformer computes in."""
        transformer = self.networks.transformer
        return transformer.get().norm_final.weight.dtype if transformer.loaded else transformer.form.dtype

    @property
    def text_dtype(self) -> torch.dtype:
        """What the text encoder computes in; `dtype` where there is none."""
        encoder = self.networks.text_encoder
        if encoder.loaded:
            return encoder.get().norm_out.weight.dtype
        return encoder.form.dtype if has_text_encoder(self.text_folder) else self.dtype

    @property
    def quantize(self) -> Quantization | None:
        """The name of `packing`."""
        return None if self.packing is None else self.packing.name

    def load_text_encoder(self, *, dtype: torch.dtype | None = None) -> TextEncoder:
        """A new text encoder in `dtype`, or as stored. The caller holds it and drops it."""
        return load_text_encoder(self.text_folder, self.variant, dtype=dtype, device=self.device)


def load_components(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    text_dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    local_files_only: bool = False,
    file_variant: str | None = None,
    text_encoder: str | Path | None = None,
    packing: Packing | None = None,
) -> Components:
    """Open a model. Configurations, headers and tokenizer are read and checked, the networks at their first use.

    Args:
        source: a name, a hub id or a folder; see `source.resolve`.
        dtype: what the networks compute in; None for what is stored.
        text_dtype: likewise the text encoder; None for `dtype`.
        device: where to put them.
        revision: branch, tag or commit on the hub.
        local_files_only: use no network.
        file_variant: read the weight files that carry this precision in their name.
        text_encoder: another model whose text encoder and tokenizer to use; needed where `source` has none.
        packing: how the transformer is to hold its weights.

    Raises:
        WeightsError: see `resolve` and the loader of each component. A text encoder that is missing is found so when
            it is asked for, because embeddings may be given instead of prompts.
    """
    folder = resolve(source, revision=revision, local_files_only=local_files_only, file_variant=file_variant)
    text_folder = folder
    variant = load_variant(folder)
    if text_encoder is not None:
        text_folder = resolve(text_encoder, local_files_only=local_files_only)
        variant = _with_text_encoder(variant, text_folder)
    device = torch.device(device)
    transformer, vae = partial(_transformer_file, folder, variant), partial(_vae_file, folder, variant)
    encoder = partial(_text_encoder_file, text_folder, variant)
    networks = Networks(
        _lazy("text encoder", encoder, text_dtype or dtype, device),
        _lazy("transformer", transformer, dtype, device, packing),
        _lazy("VAE", vae, dtype, device),
    )
    for network in networks:
        if network is not networks.text_encoder or has_text_encoder(text_folder):
            _ = network.form  # a file that is damaged or does not fit is found now
    return Components(variant, folder, text_folder, device, load_tokenizer(text_folder), networks, packing)


def load_variant(folder: ModelFolder) -> Variant:
    """What a folder holds: networks, schedule and defaults. Raises WeightsError if that is not CogVideoX."""
    if folder.layout == "diffusers":
        return read_diffusers_variant(folder.path)
    return infer_sat_variant(find_sat(folder.path))


def load_transformer(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Transformer:
    """The transformer of a folder, in evaluation mode. Raises WeightsError if the file does not fit `variant`."""
    return fill(*_transformer_file(folder, variant), dtype, device)


def load_vae(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> VAE:
    """The VAE of a folder, in evaluation mode. Raises WeightsError if the file does not fit `variant`."""
    return fill(*_vae_file(folder, variant), dtype, device)


def inspect_vae(folder: ModelFolder, variant: Variant, *, dtype: torch.dtype, device: torch.device | str) -> Form:
    """What `load_vae` would make; reads headers alone. Raises WeightsError if the file does not fit `variant`."""
    return inspect(*_vae_file(folder, variant), dtype, device)


def load_text_encoder(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TextEncoder:
    """The text encoder of a folder, in evaluation mode.

    In float16 its `mlp.down` linears are float32. In a wider `dtype` than is stored its linears keep what is stored
    and are widened one by one as they are used: the same numbers in half the memory, 9.5 GB instead of 19 GB for T5 XXL
    in float32.

    Raises:
        WeightsError: the file does not fit `variant`.
    """
    return fill(*_text_encoder_file(folder, variant), dtype, device)


def has_text_encoder(folder: ModelFolder) -> bool:
    """Whether there is a text encoder in a folder, whole or not."""
    if folder.layout == "sat":
        return find_sat(folder.path).text_encoder is not None
    return folder.part("text_encoder").is_dir()


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The tokenizer of a folder. Raises WeightsError if it is missing or damaged."""
    place = folder.part("tokenizer")
    if folder.layout == "sat":
        place = find_sat(folder.path).text_encoder or place
    content = read_spiece(place)
    try:
        return Tokenizer(content)
    except ValueError as error:
        raise WeightsError(f"{place}: {error}") from None


def _transformer_file(folder: ModelFolder, variant: Variant) -> tuple[Transformer, Component]:
    return empty_transformer(variant), open_transformer(folder, variant)


def _vae_file(folder: ModelFolder, variant: Variant) -> tuple[VAE, Component]:
    return empty_vae(variant), open_vae(folder, variant)


def _text_encoder_file(folder: ModelFolder, variant: Variant) -> tuple[TextEncoder, Component]:
    return empty_text_encoder(variant), open_text_encoder(folder)


def _lazy(
    name: str,
    open_file: Callable[[], tuple[M, Component]],
    dtype: torch.dtype | None,
    device: torch.device,
    packing: Packing | None = None,
) -> LazyNetwork[M]:
    """A network whose file is opened anew for each reading: what is mapped into memory goes with the network."""
    return LazyNetwork(
        name,
        lambda: inspect(*open_file(), dtype, device, packing),
        lambda on_bytes: fill(*open_file(), dtype, device, on_bytes, packing),
    )


def _with_text_encoder(variant: Variant, folder: ModelFolder) -> Variant:
    config = load_variant(folder).text_encoder
    if config.width != variant.transformer.text_width:
        raise WeightsError(
            f"the text encoder of {folder.path} is {config.width} wide, {variant.name} takes "
            f"{variant.transformer.text_width}"
        )
    return replace(variant, text_encoder=config)
