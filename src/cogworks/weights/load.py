"""Networks from a folder.

A network is built on the meta device and its weights are assigned from the file, strictly and one tensor at a time:
nothing is initialised twice, and a failed load leaves nothing half-filled.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

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
from cogworks.weights.mapping import State
from cogworks.weights.sat_files import find_sat
from cogworks.weights.sat_state import infer_sat_variant
from cogworks.weights.source import ModelFolder, resolve
from cogworks.weights.spiece import read_spiece
from cogworks.weights.variant_files import read_diffusers_variant

M = TypeVar("M", bound=nn.Module)
_COMPUTABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Components:
    """A loaded model. The text encoder, by far the largest part, is loaded when it is asked for.

    Attributes:
        variant: what it is.
        folder: where it is from.
        text_folder: where its text encoder and tokenizer are from.
        device: where the networks are.
    """

    variant: Variant
    folder: ModelFolder
    text_folder: ModelFolder
    device: torch.device
    transformer: Transformer
    vae: VAE
    tokenizer: Tokenizer

    def load_text_encoder(self, *, dtype: torch.dtype | None = None) -> TextEncoder:
        """A new text encoder in `dtype`, or as stored. The caller holds it and drops it."""
        return load_text_encoder(self.text_folder, self.variant, dtype=dtype, device=self.device)


def load_components(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    local_files_only: bool = False,
    file_variant: str | None = None,
    text_encoder: str | Path | None = None,
) -> Components:
    """Load a model, all but its text encoder.

    Args:
        source: a name, a hub id or a folder; see `source.resolve`.
        dtype: of the networks; None keeps what is stored.
        device: where to put them.
        revision: branch, tag or commit on the hub.
        local_files_only: use no network.
        file_variant: read the weight files that carry this precision in their name.
        text_encoder: another model whose text encoder and tokenizer to use; needed where `source` has none.

    Raises:
        WeightsError: see `resolve` and the loader of each component.
    """
    folder = resolve(source, revision=revision, local_files_only=local_files_only, file_variant=file_variant)
    text_folder = folder
    variant = load_variant(folder)
    if text_encoder is not None:
        text_folder = resolve(text_encoder, local_files_only=local_files_only)
        variant = _with_text_encoder(variant, text_folder)
    device = torch.device(device)
    return Components(
        variant=variant,
        folder=folder,
        text_folder=text_folder,
        device=device,
        transformer=load_transformer(folder, variant, dtype=dtype, device=device),
        vae=load_vae(folder, variant, dtype=dtype, device=device),
        tokenizer=load_tokenizer(text_folder),
    )


def load_variant(folder: ModelFolder) -> Variant:
    """What a folder holds: networks, schedule and defaults. Raises WeightsError if that is not CogVideoX."""
    if folder.layout == "diffusers":
        return read_diffusers_variant(folder.path)
    return infer_sat_variant(find_sat(folder.path))


def load_transformer(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Transformer:
    """The transformer of a folder, in evaluation mode. Raises WeightsError if the file does not fit `variant`."""
    return _fill(empty_transformer(variant), open_transformer(folder, variant), dtype, device)


def load_vae(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> VAE:
    """The VAE of a folder, in evaluation mode. Raises WeightsError if the file does not fit `variant`."""
    return _fill(empty_vae(variant), open_vae(folder, variant), dtype, device)


def load_text_encoder(
    folder: ModelFolder, variant: Variant, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TextEncoder:
    """The text encoder of a folder, in evaluation mode; in float16 its `mlp.down` linears are float32.

    Raises:
        WeightsError: the file does not fit `variant`.
    """
    return _fill(empty_text_encoder(variant), open_text_encoder(folder), dtype, device)


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The tokenizer of a folder. Raises WeightsError if it is missing or damaged."""
    place = folder.path / "tokenizer"
    if folder.layout == "sat":
        place = find_sat(folder.path).text_encoder or place
    content = read_spiece(place)
    try:
        return Tokenizer(content)
    except ValueError as error:
        raise WeightsError(f"{place}: {error}") from None


def _fill(network: M, component: Component, dtype: torch.dtype | None, device: torch.device | str) -> M:
    tensors = component.tensors(network)
    dtype = dtype or _stored_dtype(tensors)
    if dtype not in _COMPUTABLE:
        raise WeightsError(f"{component.origin} is stored in {dtype}; choose a dtype to compute in")
    if isinstance(network, TextEncoder):
        network.cast(dtype)
    else:
        network.to(dtype)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    state = {name: tensor.read().to(device, dtypes[name]) for name, tensor in tensors.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _stored_dtype(tensors: State) -> torch.dtype:
    """The dtype of most numbers: a float16 text encoder keeps a part in float32."""
    numbers: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.shape.numel()
    return numbers.most_common(1)[0][0]


def _with_text_encoder(variant: Variant, folder: ModelFolder) -> Variant:
    config = load_variant(folder).text_encoder
    if config.width != variant.transformer.text_width:
        raise WeightsError(
            f"the text encoder of {folder.path} is {config.width} wide, {variant.name} takes "
            f"{variant.transformer.text_width}"
        )
    return replace(variant, text_encoder=config)
