"""Folders from networks, in the layout of diffusers or of SAT.

A folder is written under a temporary name and renamed when it is complete. Both layouts get `cogworks.json`, which
says what their own files cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cogworks.config.variants import Variant
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.nn.embeddings import sincos_table
from cogworks.weights.files import DIFFUSERS_STEM, SHARD_BYTES, TRANSFORMERS_STEM, write_weights
from cogworks.weights.mapping import LazyTensor, Rule, State, convert, lazy_state, reverse
from cogworks.weights.maps import diffusers, sat
from cogworks.weights.sat_files import LATEST, MODEL_STATES, TEXT_FOLDER, VAE_FILE
from cogworks.weights.spiece import SPIECE
from cogworks.weights.storage import new_folder, replacing, write_json
from cogworks.weights.text_configs import tokenizer_files, write_text_encoder
from cogworks.weights.variant_files import write_diffusers_variant, write_variant_file


@dataclass(frozen=True)
class Content:
    """What a folder is to hold: tensors by our names, None for a component that it lacks."""

    variant: Variant
    transformer: State | None = None
    vae: State | None = None
    text_encoder: State | None = None
    tokenizer: Tokenizer | None = None


def save_pretrained(
    folder: str | Path,
    variant: Variant,
    *,
    transformer: Transformer | None = None,
    vae: VAE | None = None,
    text_encoder: TextEncoder | None = None,
    tokenizer: Tokenizer | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model as a diffusers folder, which diffusers and `cogworks.load` both read.

    Args:
        folder: a new or empty folder.
        variant: what the networks are; goes into the configuration files.
        transformer, vae, text_encoder, tokenizer: the components; those left out are marked as absent.
        shard_bytes: largest size of one weight file.

    Raises:
        WeightsError: `folder` is not empty, or the layout cannot hold this variant.
    """

    def state(network: torch.nn.Module | None) -> State | None:
        return None if network is None else lazy_state({k: t.detach() for k, t in network.state_dict().items()})

    write_diffusers(
        Path(folder), Content(variant, state(transformer), state(vae), state(text_encoder), tokenizer), shard_bytes
    )


def write_diffusers(folder: Path, content: Content, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the layout of diffusers. Raises as `save_pretrained` does."""
    variant = content.variant
    parts: tuple[tuple[str, State | None, tuple[Rule, ...], str], ...] = (
        ("transformer", content.transformer, diffusers.transformer_rules(variant.transformer), DIFFUSERS_STEM),
        ("vae", content.vae, diffusers.VAE_RULES, DIFFUSERS_STEM),
        ("text_encoder", content.text_encoder, diffusers.TEXT_ENCODER_RULES, TRANSFORMERS_STEM),
    )
    present = {name for name, state, _, _ in parts if state is not None}
    with new_folder(folder) as place:
        write_diffusers_variant(place, variant, present | ({"tokenizer"} if content.tokenizer else set()))
        for name, state, rules, stem in parts:
            if state is not None:
                write_weights(place / name, stem, _renamed(state, rules, name), shard_bytes=shard_bytes)
        if content.tokenizer:
            _write_tokenizer(place / "tokenizer", content.tokenizer, variant)


def write_sat(folder: Path, content: Content) -> None:
    """Write the layout of SAT (see `sat_files`), all tensors in one pickle a component.

    Raises:
        WeightsError: `folder` is not empty.
    """
    variant = content.variant
    with new_folder(folder) as place:
        write_variant_file(place, variant)
        if content.transformer is not None:
            state = _renamed(content.transformer, sat.transformer_rules(variant.transformer), "transformer")
            named = {sat.TRANSFORMER_PREFIX + name: tensor for name, tensor in state.items()}
            _torch_save(place / "transformer" / "1" / MODEL_STATES, "module", named, _computed_table(variant, state))
            (place / "transformer" / LATEST).write_text("1", encoding="utf-8")
        if content.vae is not None:
            rules = sat.vae_rules(len(variant.vae.widths))
            _torch_save(place / "vae" / VAE_FILE, "state_dict", _renamed(content.vae, rules, "vae"), {})
        if content.text_encoder is not None:
            state = _renamed(content.text_encoder, diffusers.TEXT_ENCODER_RULES, "text_encoder")
            write_json(place / TEXT_FOLDER / "config.json", write_text_encoder(variant.text_encoder))
            write_weights(place / TEXT_FOLDER, TRANSFORMERS_STEM, state)
        if content.tokenizer:
            _write_tokenizer(place / TEXT_FOLDER, content.tokenizer, variant)


def _renamed(state: State, rules: tuple[Rule, ...], origin: str) -> dict[str, LazyTensor]:
    return dict(sorted(convert(state, reverse(rules), origin=origin).items()))


def _computed_table(variant: Variant, state: State) -> dict[str, torch.Tensor]:
    """The fixed sin-cos table, which SAT stores and we compute."""
    config = variant.transformer
    if config.position_table != "sincos":
        return {}
    grid = (config.sample_latent_frames // config.patch_size[0], *config.sample_grid)
    video = sincos_table(grid, config.width, config.spatial_interpolation, config.temporal_interpolation)
    table = torch.cat([video.new_zeros(config.text_tokens, config.width), video])[None]
    dtype = state["mixins.patch_embed.proj.weight"].dtype
    return {sat.TRANSFORMER_PREFIX + sat.POSITION_TABLE: table.to(dtype)}


def _torch_save(path: Path, entry: str, state: State, extra: Mapping[str, torch.Tensor]) -> None:
    # Views are copied: torch.save would store the whole storage behind each of them.
    tensors = {name: tensor.read().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    with replacing(path) as temporary:
        torch.save({entry: {**tensors, **extra}}, temporary)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, variant: Variant) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPIECE).write_bytes(tokenizer.model_bytes)
    for name, content in tokenizer_files(len(tokenizer), variant.transformer.text_tokens).items():
        write_json(folder / name, content)
