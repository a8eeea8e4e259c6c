"""Whole folders from one layout to another, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cogworks.errors import WeightsError
from cogworks.weights.components import (
    empty_text_encoder,
    empty_transformer,
    empty_vae,
    open_text_encoder,
    open_transformer,
    open_vae,
)
from cogworks.weights.load import load_tokenizer, load_variant
from cogworks.weights.sat_files import find_sat
from cogworks.weights.save import Content, write_diffusers, write_sat
from cogworks.weights.source import ModelFolder, resolve


def convert_folder(source: str | Path, target: str | Path, to: Literal["diffusers", "sat"]) -> None:
    """Write the model of one folder to another folder in the layout `to`, in the dtype it is stored in.

    Components that the source lacks are left out. What a SAT checkpoint holds beside the weights of its networks
    (tables that are computed, optimizer and random states) does not come along; LoRA factors are merged.

    Args:
        source: whatever `source.resolve` takes.
        target: a new or empty folder.
        to: layout of `target`.

    Raises:
        WeightsError: the source is damaged or not CogVideoX, or `target` is not empty.
    """
    if to not in ("diffusers", "sat"):
        raise WeightsError(f"a model is converted to 'diffusers' or 'sat', not to {to!r}")
    content = read_content(resolve(source))
    if to == "diffusers":
        write_diffusers(Path(target), content)
    else:
        write_sat(Path(target), content)


def read_content(folder: ModelFolder) -> Content:
    """All that a folder holds, by our names; tensors are read when they are asked for.

    Raises:
        WeightsError: it is damaged or not CogVideoX.
    """
    variant = load_variant(folder)
    has_vae, has_text = _optional_parts(folder)
    return Content(
        variant=variant,
        transformer=open_transformer(folder, variant).tensors(empty_transformer(variant)),
        vae=open_vae(folder, variant).tensors(empty_vae(variant)) if has_vae else None,
        text_encoder=open_text_encoder(folder).tensors(empty_text_encoder(variant)) if has_text else None,
        tokenizer=load_tokenizer(folder) if has_text else None,
    )


def _optional_parts(folder: ModelFolder) -> tuple[bool, bool]:
    """Whether there is a VAE, and a text encoder with its tokenizer."""
    if folder.layout == "sat":
        files = find_sat(folder.path)
        return files.vae is not None, files.text_encoder is not None
    vae, text_encoder = (
        any(path.suffix in (".safetensors", ".bin") for path in folder.part(name).glob("*"))
        for name in ("vae", "text_encoder")
    )
    return vae, text_encoder
