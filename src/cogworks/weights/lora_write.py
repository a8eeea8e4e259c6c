"""Writing LoRA files in every dialect, so that its own programs and `lora.read_lora` read the same LoRA.

What a dialect has no name for is told, never left out. Where a dialect knows a linear only as a whole, the factor
pairs of its row blocks become one of the sum of their ranks; where it knows the row blocks only, a pair of several is
cut. Where it has no alpha (SAT takes 1, DiffSynth the rank), alpha goes into lora_b; a note of ours in the file takes
it out again, bit for bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cogworks.config.architecture import TransformerConfig
from cogworks.errors import WeightsError
from cogworks.nn.low_rank import LowRank
from cogworks.weights.lora import SAT_ALPHA, folded, name_template, unfolded
from cogworks.weights.lora_files import FOLDED, METADATA
from cogworks.weights.maps.lora import PATCHES, PREFIXES, TARGETS, Dialect, Target
from cogworks.weights.storage import replacing

_SUFFIXES: dict[Dialect, tuple[str, str]] = {
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "diffsynth": ("lora_A.default.weight", "lora_B.default.weight"),
}


def write_lora(
    path: str | Path, pairs: Sequence[LowRank], dialect: Dialect, *, config: TransformerConfig | None = None
) -> None:
    """Write a LoRA to one file, which appears when it is complete.

    Args:
        path: ends in .safetensors, for SAT in .pt.
        pairs: the factors; written in their own dtype.
        dialect: whose names to use.
        config: of the transformer that the LoRA is for; needed where it acts on `patch_embed.proj`, which is a
            convolution in some generations of diffusers' model.

    Raises:
        WeightsError: the ending is another, `pairs` is empty, or the dialect has no name for a target.
    """
    path, ending = Path(path), ".pt" if dialect == "sat" else ".safetensors"
    if path.suffix != ending:
        raise WeightsError(f"{path}: a LoRA in the dialect of {dialect} ends in {ending}")
    if not pairs:
        raise WeightsError(f"{path}: there are no factors to write")
    named = _named(pairs, dialect)
    if dialect == "diffusers":
        tensors = _factors(named, dialect, config)
        _save(path, tensors, {METADATA: json.dumps(_peft_config(named), indent=2, sort_keys=True)})
    elif dialect == "kohya":
        alphas = {f"{name}.alpha": _scalar(pair.alpha) for name, pair in named.items()}
        _save(path, {**_factors(named, dialect, config), **alphas}, {})
    else:
        notes: dict[str, Any] = {}
        written = {name: _without_alpha(pair, dialect, notes) for name, pair in named.items()}
        note = {FOLDED: json.dumps(notes, sort_keys=True)} if notes else {}
        if dialect == "sat":
            with replacing(path) as temporary:
                torch.save({"module": _sat_factors(written), **note}, temporary)
        else:
            _save(path, _factors(written, dialect, config), note)


def _named(pairs: Sequence[LowRank], dialect: Dialect) -> dict[str, LowRank]:
    """The pairs that the dialect knows, under its names with prefix (for SAT with the number of the part)."""
    shares: dict[tuple[str, Target], list[LowRank]] = {}
    unnamed = []
    for pair in pairs:
        places = _places(pair, dialect)
        if not places:
            unnamed.append(pair.target)
        for place, share in places:
            shares.setdefault(place, []).append(share)
    if unnamed:
        listed = ", ".join(unnamed[:4]) + (", ..." if len(unnamed) > 4 else "")
        raise WeightsError(f"the dialect of {dialect} has no name for {len(unnamed)} of the targets: {listed}")
    return {name: _joined(target, found) for (name, target), found in shares.items()}


def _places(pair: LowRank, dialect: Dialect) -> list[tuple[tuple[str, Target], LowRank]]:
    """Where the parts of a pair go: as a whole if the dialect can say that, else row block by row block."""
    layer = next((part for part in pair.path.split(".") if part.isdigit()), "")
    here = [target for target in TARGETS if target.path.format(i=layer) == pair.path and name_template(target, dialect)]

    def key(target: Target) -> tuple[str, Target]:
        name = f"{PREFIXES[dialect][0]}{name_template(target, dialect)}".format(i=layer)
        return f"{name}#{target.sat_part}" if dialect == "sat" else name, target

    whole = [target for target in here if target.rows == pair.rows]
    if not whole and pair.rows:
        whole = [target for target in here if set(target.rows) >= set(pair.rows)]
    if whole:
        return [(key(min(whole, key=lambda target: len(target.rows))), pair)]
    if len(pair.rows) < 2:
        return []
    blocks = zip(pair.rows, pair.lora_b.chunk(len(pair.rows)), strict=True)
    cut = [_places(replace(pair, rows=(row,), lora_b=block), dialect) for row, block in blocks]
    return [place for places in cut for place in places] if all(cut) else []


def _joined(target: Target, shares: Sequence[LowRank]) -> LowRank:
    """One pair for all row blocks of a target, equal to the sum of its shares. Its rank is the sum of theirs."""
    first = shares[0]
    if len(shares) == 1 and first.rows == target.rows:
        return first
    height = len(first.lora_b) // max(1, len(first.rows))
    rank = sum(pair.rank for pair in shares)
    strength = next((pair.strength for pair in shares if pair.strength), 1.0)
    lora_b = torch.zeros(height * max(1, len(target.rows)), rank, dtype=first.lora_b.dtype)
    start = 0
    for pair in shares:
        # One alpha holds for all of them, so what else there is of strength goes into the factor.
        part = pair.lora_b if pair.strength == strength else pair.lora_b * (pair.strength / strength)
        for row, block in zip(pair.rows or ("",), part.chunk(max(1, len(pair.rows))), strict=True):
            top = target.rows.index(row) * height if row else 0
            lora_b[top : top + height, start : start + pair.rank] = block
        start += pair.rank
    lora_a = torch.cat([pair.lora_a for pair in shares])
    return LowRank(first.path, target.rows, lora_a, lora_b, strength * rank)


def _without_alpha(pair: LowRank, dialect: Dialect, notes: dict[str, Any]) -> LowRank:
    """The pair with the alpha that readers of the dialect take for granted.

    lora_b gets the narrowest dtype, from its own on, from which `lora._unfold` gets it back bit for bit.
    """
    alpha = SAT_ALPHA if dialect == "sat" else float(pair.rank)
    if alpha == pair.alpha:
        return pair
    own = pair.lora_b.dtype
    lora_b = folded(pair.lora_b, pair.alpha, alpha, torch.float64)
    for dtype in (own, torch.promote_types(own, torch.float32)):
        tried = folded(pair.lora_b, pair.alpha, alpha, dtype)
        if torch.equal(unfolded(tried, pair.alpha, alpha, own), pair.lora_b):
            lora_b = tried
            break
    notes[pair.target] = {"alpha": pair.alpha, "dtype": str(own).removeprefix("torch.")}
    return replace(pair, lora_b=lora_b, alpha=alpha)


def _factors(named: Mapping[str, LowRank], dialect: Dialect, config: TransformerConfig | None) -> dict[str, Tensor]:
    a, b = _SUFFIXES[dialect]
    tensors = {}
    for name, pair in named.items():
        lora_a, lora_b = pair.lora_a, pair.lora_b
        if pair.path == PATCHES:
            lora_a, lora_b = _as_patches(lora_a, lora_b, config)
        tensors[f"{name}.{a}"], tensors[f"{name}.{b}"] = lora_a, lora_b
    return tensors


def _as_patches(lora_a: Tensor, lora_b: Tensor, config: TransformerConfig | None) -> tuple[Tensor, Tensor]:
    """The factors for patches, with a kernel where diffusers convolves."""
    if config is None:
        raise WeightsError(f"the LoRA acts on {PATCHES}, which models name in two ways; name the model that it is for")
    if config.rope == "slice":
        return lora_a, lora_b
    return lora_a.unflatten(1, (config.in_channels, *config.patch_size[1:])), lora_b[:, :, None, None]


def _sat_factors(named: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = {}
    for key, pair in named.items():
        name, _, part = key.partition("#")
        # Copied: torch.save would store all of what a view is a part of.
        tensors[f"{name}.matrix_A.{part}"] = pair.lora_a.clone(memory_format=torch.contiguous_format)
        tensors[f"{name}.matrix_B.{part}"] = pair.lora_b.clone(memory_format=torch.contiguous_format)
    return tensors


def _peft_config(named: Mapping[str, LowRank]) -> dict[str, Any]:
    """What PEFT has to know to build the same LoRA; what is most frequent is said once."""
    modules = {name.removeprefix(PREFIXES["diffusers"][0]): pair for name, pair in named.items()}
    rank, alpha = (_most(values) for values in zip(*((p.rank, p.alpha) for p in modules.values()), strict=True))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _plain(alpha),
        "rank_pattern": {f"^{name}": pair.rank for name, pair in modules.items() if pair.rank != rank},
        "alpha_pattern": {f"^{name}": _plain(pair.alpha) for name, pair in modules.items() if pair.alpha != alpha},
        "target_modules": sorted(modules),
    }
    return {f"{PREFIXES['diffusers'][0]}{key}": value for key, value in config.items()}


def _most(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]


def _plain(number: float) -> float:
    """PEFT declares alpha as a whole number."""
    return int(number) if number == int(number) else number


def _scalar(number: float) -> Tensor:
    """In float32, as kohya writes it, or in float64 where that would round."""
    narrow = torch.tensor(number, dtype=torch.float32)
    return narrow if float(narrow) == number else torch.tensor(number, dtype=torch.float64)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    owned = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    # One entry, because safetensors writes several in an order of its own: the same LoRA gives the same bytes.
    assert len(metadata) < 2
    with replacing(path) as temporary:
        save_file(owned, temporary, metadata=dict(metadata) or {"format": "pt"})
