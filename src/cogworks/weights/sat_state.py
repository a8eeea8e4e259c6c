"""Tensors and configuration of SAT checkpoints.

A SAT file holds no configuration: it is inferred from the shapes and from what is known of the five published models
(docs/parity.md#weights). A folder that we wrote says it in `cogworks.json`.
Letters: D width, r rank of a LoRA factor pair.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cogworks.config.architecture import TransformerConfig, VAEConfig
from cogworks.config.variants import (
    COGVIDEOX_2B,
    COGVIDEOX_5B,
    COGVIDEOX_5B_I2V,
    COGVIDEOX_15_5B,
    COGVIDEOX_15_5B_I2V,
    Variant,
)
from cogworks.errors import WeightsError
from cogworks.weights.mapping import LazyTensor, State
from cogworks.weights.maps import sat
from cogworks.weights.pickles import read_tensors
from cogworks.weights.sat_files import SatFiles
from cogworks.weights.storage import read_json
from cogworks.weights.text_configs import read_text_encoder
from cogworks.weights.variant_files import read_variant_file

logger = logging.getLogger(__name__)

NORM_OUT_EPS = 1e-6  # diffusers has 1e-5
_LORA_ALPHA = 1.0  # SAT's value in every released configuration; the scale is alpha / r
_FACTOR = re.compile(r"(?P<module>.+)\.matrix_(?P<side>[AB])\.(?P<part>\d+)")


def open_sat_transformer(path: Path) -> State:
    """The tensors of `mp_rank_00_model_states.pt` by SAT's names without prefix, LoRA factors merged."""
    return merge_lora(_without_prefix(read_tensors(path, "module"), sat.TRANSFORMER_PREFIX, path), str(path))


def open_sat_vae(path: Path) -> State:
    """The tensors of `3d-vae.pt` by SAT's names."""
    return _without_prefix(read_tensors(path, "state_dict"), sat.VAE_PREFIX, path)


def merge_lora(state: State, origin: str) -> State:
    """W + (alpha / r) B A in place of W and its factors, one factor pair for each block of rows.

    In a checkpoint with LoRA the weight is one level down, `....original.weight`.

    Raises:
        WeightsError: a factor has no partner, or the products do not have the shape of W.
    """
    factors: dict[str, dict[tuple[str, int], LazyTensor]] = {}
    result: dict[str, LazyTensor] = {}
    for key, tensor in state.items():
        match = _FACTOR.fullmatch(key)
        if match:
            factors.setdefault(match["module"], {})[match["side"], int(match["part"])] = tensor
        else:
            result[key.replace(".original.", ".")] = tensor
    for module, pairs in factors.items():
        result[f"{module}.weight"] = _merged(f"{origin}: {module}", result.get(f"{module}.weight"), pairs)
    if factors:
        rank = next(iter(factors.values()))["A", 0].shape[0]
        logger.info("%s: merged LoRA factors of rank %d into %d linears", origin, rank, len(factors))
    return result


def infer_sat_variant(files: SatFiles) -> Variant:
    """The variant of a SAT folder.

    Raises:
        WeightsError: the tensors do not look like CogVideoX.
    """
    known = read_variant_file(files.root)
    if known is not None:
        return known
    state = open_sat_transformer(files.transformer)
    row = _family(state)
    try:
        transformer = _transformer_config(state, row.transformer)
        vae = _vae_config(open_sat_vae(files.vae), row.vae) if files.vae else row.vae
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{files.transformer} does not look like CogVideoX: no tensor {error}") from None
    text_encoder = row.text_encoder
    if files.text_encoder:
        path = files.text_encoder / "config.json"
        text_encoder = read_text_encoder(read_json(path), str(path))
    published = replace(transformer, norm_out_eps=row.transformer.norm_out_eps) == row.transformer and vae == row.vae
    return replace(
        row,
        name=row.name if published else files.root.resolve().name,
        hub_id=row.hub_id if published else None,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
    )


def _without_prefix(state: State, prefix: str, path: Path) -> State:
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if not inside:
        return state
    if len(inside) < len(state):
        logger.info("%s: left out %d tensors outside of %s", path, len(state) - len(inside), prefix)
    return inside


def _merged(origin: str, base: LazyTensor | None, pairs: dict[tuple[str, int], LazyTensor]) -> LazyTensor:
    parts = range(len(pairs) // 2)
    if base is None or set(pairs) != {(side, part) for side in "AB" for part in parts}:
        raise WeightsError(f"{origin} has LoRA factors without a partner or without a weight")
    factors = [(pairs["A", part], pairs["B", part]) for part in parts]
    shapes = [(*a.shape, *b.shape) for a, b in factors]
    rows = sum(shape[2] for shape in shapes)
    if any(len(s) != 4 or s[0] != s[3] or s[1] != base.shape[1] for s in shapes) or rows != base.shape[0]:
        raise WeightsError(f"{origin} has LoRA factors that do not fit its weight {tuple(base.shape)}")
    return LazyTensor(base.shape, base.dtype, partial(_add_products, base, factors))


def _add_products(base: LazyTensor, factors: list[tuple[LazyTensor, LazyTensor]]) -> Tensor:
    products = [
        (b.read().float() @ a.read().float()) * (_LORA_ALPHA / a.shape[0]) for a, b in factors
    ]  # in float32: the sum is rounded once
    return (base.read().float() + torch.cat(products)).to(base.dtype)


def _family(state: State) -> Variant:
    """The published model that has the same parts."""
    if "ofs_embed.0.weight" in state:
        return COGVIDEOX_15_5B_I2V
    patch = state.get("mixins.patch_embed.proj.weight")
    if patch is not None and len(patch.shape) == 2:
        return COGVIDEOX_15_5B
    if sat.POSITION_TABLE not in state:
        return COGVIDEOX_5B
    return COGVIDEOX_5B_I2V if "mixins.pos_embed.freqs_cos" in state or _takes_image(state) else COGVIDEOX_2B


def _takes_image(state: State) -> bool:
    """Whether there are twice as many channels in as out, where patches are convolved."""
    patch, out = state.get("mixins.patch_embed.proj.weight"), state.get("mixins.final_layer.linear.weight")
    return patch is not None and out is not None and patch.shape[1:].numel() == 2 * out.shape[0]


def _transformer_config(state: State, row: TransformerConfig) -> TransformerConfig:
    patch = state["mixins.patch_embed.proj.weight"].shape
    head_width = state["mixins.adaln_layer.query_layernorm_list.0.weight"].shape[0]
    volume = math.prod(row.patch_size)
    return replace(
        row,
        num_layers=_count(state, r"transformer\.layers\.(\d+)\."),
        num_heads=patch[0] // head_width,
        head_width=head_width,
        in_channels=patch[1:].numel() // volume,
        out_channels=state["mixins.final_layer.linear.weight"].shape[0] // volume,
        text_width=state["mixins.patch_embed.text_proj.weight"].shape[1],
        time_width=state["time_embed.0.weight"].shape[0],
        ofs_width=state["ofs_embed.0.weight"].shape[1] if row.ofs_width else None,
        norm_out_eps=NORM_OUT_EPS,
    )


def _vae_config(state: State, row: VAEConfig) -> VAEConfig:
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    return replace(
        row,
        widths=tuple(state[f"encoder.down.{level}.block.0.conv1.conv.weight"].shape[0] for level in range(levels)),
        latent_channels=state["decoder.conv_in.conv.weight"].shape[1],
        image_channels=state["encoder.conv_in.conv.weight"].shape[1],
        layers_per_block=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
    )


def _count(state: State, pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, state) if match})
