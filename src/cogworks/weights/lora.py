"""Reading LoRA files of every dialect; which one it is, is recognised by the keys.

The dialects differ in the names of linears (`maps/lora`), in those of the factors, and in what they say of alpha:

    diffusers   lora_A, lora_B; alpha in PEFT's configuration or beside the factors, else the rank
    sat         matrix_A.PART, matrix_B.PART, one part for each of q, k, v; alpha is 1
    kohya       lora_down, lora_up, with `_` for every `.`; alpha beside the factors, else the rank
    diffsynth   lora_A.default, lora_B.default under names of their own; alpha is the rank

Letters: r rank, I input width, O output rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogworks.errors import WeightsError
from cogworks.nn.low_rank import LowRank
from cogworks.weights.lora_files import OpenedLoRA, open_lora
from cogworks.weights.mapping import LazyTensor
from cogworks.weights.maps.lora import PREFIXES, SAT_BASE, SAT_OTHERS, TARGETS, Dialect, Target

SAT_ALPHA = 1.0
"""SAT's value in every released configuration; its files do not say."""

_FACTOR = re.compile(
    r"(?P<name>.+?)\.(?:lora_(?P<side>A|B|down|up)|lora\.(?P<old>down|up))"
    r"(?:\.(?!(?:weight|bias)$)(?P<slot>[^.]+))?(?:\.weight)?"
)
_SAT_FACTOR = re.compile(r"(?P<name>.+)\.matrix_(?P<side>[AB])\.(?P<part>\d+)")
_ALPHA = re.compile(r"(?P<name>.+)\.alpha")
_SIDES = {"A": "a", "down": "a", "B": "b", "up": "b"}
_SHOWN = 4  # keys named in an error; the rest are counted


@dataclass(frozen=True, eq=False)
class LoRAFile:
    """A LoRA as a file holds it.

    Attributes:
        path: the file.
        dialect: whose names it has.
        pairs: its factors, by layer.
    """

    path: Path
    dialect: Dialect
    pairs: tuple[LowRank, ...]


@dataclass
class _Found:
    """What a file says of one target in one layer."""

    a: LazyTensor | None = None
    b: LazyTensor | None = None
    alpha: float | None = None


_Place = tuple[int, int]
"""Number of the layer, or -1 outside of layers; index of the target in `TARGETS`."""


@dataclass
class _Reading:
    """A file while it is sorted."""

    opened: OpenedLoRA
    dialect: Dialect
    found: dict[_Place, _Found] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    slots: set[str] = field(default_factory=set)

    def at(self, place: _Place) -> _Found:
        return self.found.setdefault(place, _Found())


def read_lora(path: str | Path) -> LoRAFile:
    """Read a LoRA of any dialect: a file, or a folder that holds one.

    Raises:
        WeightsError: nothing is there, it is damaged, it is no LoRA of this family, it has keys that are not known, or
            half of a factor pair is missing.
    """
    opened = open_lora(path)
    reading = _Reading(opened, _recognise(opened))
    for key, tensor in opened.state.items():
        _sort_tensor(reading, key, tensor)
    for key, number in opened.numbers.items():
        match = _ALPHA.fullmatch(key)
        place = _locate(match["name"], reading.dialect) if match else None
        if place is not None:
            reading.at(place).alpha = number
    _check(reading)
    config = _Config(opened)
    pairs = [_pair(reading, place, found, config) for place, found in sorted(reading.found.items())]
    return LoRAFile(opened.path, reading.dialect, tuple(pairs))


def _recognise(opened: OpenedLoRA) -> Dialect:
    keys = list(opened.state)
    if any(_SAT_FACTOR.fullmatch(key) for key in keys):
        return "sat"
    if any(key.startswith(PREFIXES["kohya"]) for key in keys):
        return "kohya"
    names = {match["name"] for match in map(_FACTOR.fullmatch, keys) if match}
    dotted: tuple[Dialect, ...] = ("diffusers", "diffsynth")
    known = {dialect: sum(_locate(name, dialect) is not None for name in names) for dialect in dotted}
    best = max(dotted, key=lambda dialect: known[dialect])
    if not known[best]:
        what = "a LoRA of another network" if names else "no LoRA"
        raise WeightsError(f"{opened.path} is {what}: it holds {_some(keys)}, and nothing of CogVideoX's transformer")
    return best


def _sort_tensor(reading: _Reading, key: str, tensor: LazyTensor) -> None:
    """Put one tensor where it belongs, or among what is unknown."""
    dialect = reading.dialect
    match = (_SAT_FACTOR if dialect == "sat" else _FACTOR).fullmatch(key)
    if match is None:
        alpha = _ALPHA.fullmatch(key)
        place = _locate(alpha["name"], dialect) if alpha else None
        if place is not None and tensor.shape.numel() == 1:
            reading.at(place).alpha = float(tensor.read())
        elif dialect != "sat" or not _is_sat_base(key):
            reading.unknown.append(key)
        return
    groups = match.groupdict()
    place = _locate(groups["name"], dialect, int(groups.get("part") or 0))
    if place is None:
        reading.unknown.append(key)
        return
    side = _SIDES[groups["side"] or groups["old"]]
    if groups.get("slot"):
        reading.slots.add(groups["slot"])
    if getattr(reading.at(place), side) is not None:
        if len(reading.slots) < 2:  # else the slots are the reason, and the error to tell
            reading.unknown.append(key)
        return
    setattr(reading.at(place), side, tensor)


def _check(reading: _Reading) -> None:
    path, dialect = reading.opened.path, reading.dialect
    if len(reading.slots) > 1:
        raise WeightsError(
            f"{path} holds several LoRAs ({', '.join(sorted(reading.slots))}); save each in its own file"
        )
    if reading.unknown:
        raise WeightsError(
            f"{path} cannot be read in full as a LoRA of CogVideoX in the dialect of {dialect}: "
            f"{len(reading.unknown)} keys are not known: {_some(reading.unknown)}"
        )
    halves = [place for place, found in sorted(reading.found.items()) if found.a is None or found.b is None]
    if halves:
        targets = _some(":".join((_path(place), *TARGETS[place[1]].rows)) for place in halves)
        raise WeightsError(f"{path} is incomplete: it lacks one of the two factors of {targets}")


def _pair(reading: _Reading, place: _Place, found: _Found, config: _Config) -> LowRank:
    path, target = reading.opened.path, TARGETS[place[1]]
    assert found.a is not None
    assert found.b is not None
    lora_a, lora_b = _matrix(found.a), _matrix(found.b)
    ours = _path(place)
    if not (lora_a.is_floating_point() and lora_b.is_floating_point()):
        raise WeightsError(f"{path}: the factors of {ours} are {lora_a.dtype}, expected floating-point numbers")
    alpha = _default_alpha(reading.dialect, len(lora_a)) if found.alpha is None else found.alpha
    if found.alpha is None and reading.dialect == "diffusers":
        alpha = config.alpha(target.diffusers.format(i=place[0]), alpha)
    if not math.isfinite(alpha):
        raise WeightsError(f"{path}: alpha of {ours} is {alpha}, expected a finite number")
    try:
        pair = LowRank(ours, target.rows, lora_a, lora_b, alpha)
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from None
    return _unfold(path, pair, reading.opened.folded.get(pair.target))


def _unfold(path: Path, pair: LowRank, entry: Any) -> LowRank:
    """Undo what `lora_write` did to a factor for a dialect that has no alpha."""
    if entry is None:
        return pair
    said = entry if isinstance(entry, dict) else {}
    alpha, dtype = said.get("alpha"), getattr(torch, str(said.get("dtype")), None)
    is_dtype = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    if dtype is None or not is_dtype or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise WeightsError(f"{path} is damaged: what it says of alpha of {pair.target} cannot be understood")
    lora_b = unfolded(pair.lora_b, float(alpha), pair.alpha, dtype)
    return LowRank(pair.path, pair.rows, pair.lora_a, lora_b, float(alpha))


def folded(lora_b: Tensor, alpha: float, written_alpha: float, dtype: torch.dtype) -> Tensor:
    """`lora_b` of a pair with `alpha`, for a dialect whose readers take `written_alpha` for it."""
    return (lora_b.double() * (alpha / written_alpha)).to(dtype)


def unfolded(lora_b: Tensor, alpha: float, written_alpha: float, dtype: torch.dtype) -> Tensor:
    """The inverse of `folded`; `dtype` is that of the result. An alpha of 0 leaves nothing to return to."""
    return (lora_b.double() / (alpha / written_alpha)).to(dtype) if alpha else lora_b.to(dtype)


def _default_alpha(dialect: Dialect, rank: int) -> float:
    return SAT_ALPHA if dialect == "sat" else float(rank)


def _matrix(tensor: LazyTensor) -> Tensor:
    """A factor; those of a convolution lose their kernel, whose columns are ordered as those of our linear."""
    read = tensor.read()
    return read.flatten(1) if read.ndim > 2 else read


class _Config:
    """PEFT's configuration of a LoRA, as far as it bears on alpha."""

    def __init__(self, opened: OpenedLoRA) -> None:
        self._path, config = opened.path, opened.config
        if config.get("use_dora"):
            raise WeightsError(f"{opened.path} is a DoRA, which changes weights in another way and cannot be read")
        patterns = config.get("alpha_pattern") or {}
        if not isinstance(patterns, Mapping):
            raise self._error("alpha_pattern", patterns)
        self._patterns = patterns
        self._alpha = config.get("lora_alpha")
        self._by_root = bool(config.get("use_rslora"))

    def alpha(self, name: str, rank: float) -> float:
        """Strength times rank for a linear of theirs; without a configuration the rank itself."""
        found = next((value for key, value in self._patterns.items() if self._fits(key, name)), self._alpha)
        if found is None:
            return rank
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._error("lora_alpha", found)
        return found * math.sqrt(rank) if self._by_root else float(found)

    def _fits(self, pattern: str, name: str) -> bool:
        """PEFT's rule: a regular expression for the end of the name, whole parts."""
        try:
            return re.match(rf"(.*\.)?({pattern})$", name) is not None
        except re.error:
            raise self._error("alpha_pattern", pattern) from None

    def _error(self, key: str, value: object) -> WeightsError:
        return WeightsError(f"{self._path}: its configuration says {key} = {value!r}, which cannot be understood")


def _locate(name: str, dialect: Dialect, part: int = 0) -> _Place | None:
    """The layer and target that a name of theirs stands for."""
    for prefix in sorted(PREFIXES[dialect], key=len, reverse=True):
        if not name.startswith(prefix):
            continue
        for index, target in enumerate(TARGETS):
            pattern = _pattern(target, dialect)
            match = pattern.fullmatch(name.removeprefix(prefix)) if pattern else None
            if match and (dialect != "sat" or part == target.sat_part):
                return int(match.groupdict().get("i") or -1), index
    return None


@cache
def _pattern(target: Target, dialect: Dialect) -> re.Pattern[str] | None:
    template = name_template(target, dialect)
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d{1,6})")) if template else None


def name_template(target: Target, dialect: Dialect) -> str | None:
    """What a dialect calls a linear, without prefix; None if it has no name for it."""
    if dialect == "kohya":
        return target.diffusers.replace(".", "_")
    name: str | None = getattr(target, dialect)
    return name


def _path(place: _Place) -> str:
    return TARGETS[place[1]].path.format(i=place[0])


def _is_sat_base(key: str) -> bool:
    """Whether it is a parameter that a SAT checkpoint holds beside the factors."""
    return key.startswith(SAT_OTHERS) or key.removeprefix(PREFIXES["sat"][0]).startswith(SAT_BASE)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
