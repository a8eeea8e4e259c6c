"""LoRA: low-rank factors on chosen linears, to train or as a file holds them.

    network.requires_grad_(False)
    with attach(network, LoRA(rank=16)):
        optimizer = AdamW(lora_parameters(network))
        ...
        pairs = lora_pairs(network, "default")    # for weights.lora_write
    attach(network, StoredLoRA(pairs, scale=0.8, name="style"), StoredLoRA(others, name="motion"))

Several act together, each with a name and a scale; the order makes no difference.
Source: LoRA, arXiv:2106.09685.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Place, WrapperFactory
from cogworks.extensions.lora_linear import LoRALinear, base_linear
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank
from cogworks.rng import generator_for

ATTENTION = ("blocks.*.attention.qkv", "blocks.*.attention.out")
"""What every published LoRA of this family acts on."""


@dataclass(frozen=True)
class LoRA:
    """A new LoRA, to be trained. It changes nothing before its first step: lora_b is zero.

    Attributes:
        rank: of every factor pair.
        alpha: strength times rank; None for a strength of 1.
        targets: path patterns of linears. `PATTERN:ROWS` takes those row blocks alone that match the pattern ROWS, as
            in `blocks.*.attention.qkv:q`; without it every row block gets a factor pair of its own.
        dropout: share of the inputs of the factors that is zero in training, in [0, 1).
        scale: how strongly it acts from the start.
        name: letters, digits, `_` and `-`.
        seed: lora_a is drawn from a generator keyed by seed, name and target, uniform in +-1/sqrt(width).
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ATTENTION
    dropout: float = 0.0
    scale: float = 1.0
    name: str = "default"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_options(self.name, self.scale, self.dropout)
        if self.rank < 1:
            raise ExtensionError(f"the rank of a LoRA is 1 or more, got {self.rank}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise ExtensionError(f"the alpha of a LoRA is a finite number, got {self.alpha}")
        if not self.targets or isinstance(self.targets, str):
            raise ExtensionError(f"the targets of a LoRA are a list of path patterns, got {self.targets!r}")

    @property
    def place(self) -> Place:
        return Place.ADAPTER

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        rows: dict[str, list[str]] = {}
        for target in self.targets:
            pattern, _, blocks = target.partition(":")
            rows.setdefault(pattern, []).append(blocks or "*")
        return [(pattern, partial(self._wrap, pattern, blocks)) for pattern, blocks in rows.items()]

    def _wrap(self, pattern: str, blocks: list[str], path: str, inner: nn.Module) -> LoRALinear:
        linear = base_linear(path, inner)
        chosen: list[tuple[str, ...]] = [(name,) for name in _choose_rows(path, linear, blocks)] or [()]
        pairs = [self._draw(path, rows, linear) for rows in chosen]
        return LoRALinear(path, inner, pairs, name=self.name, scale=self.scale, dropout=self.dropout, trainable=True)

    def _draw(self, path: str, rows: tuple[str, ...], linear: nn.Linear) -> LowRank:
        """float32 factors, drawn on the CPU."""
        height = linear.block_features if isinstance(linear, StackedLinear) else linear.out_features
        generator = generator_for(self.seed, "lora", self.name, path, *rows)
        lora_a = torch.empty(self.rank, linear.in_features)
        nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5), generator=generator)
        device, alpha = linear.weight.device, float(self.rank if self.alpha is None else self.alpha)
        return LowRank(path, rows, lora_a.to(device), torch.zeros(height, self.rank, device=device), alpha)


@dataclass(frozen=True)
class StoredLoRA:
    """A LoRA whose factors are known, as read from a file.

    Attributes:
        pairs: the factors. They are copied if they are to be trained, and moved to the device of the network.
        scale: how strongly it acts: 1 as it was trained.
        name: letters, digits, `_` and `-`.
        dropout: as in `LoRA`.
        trainable: whether the factors take gradients.
    """

    pairs: tuple[LowRank, ...] = field(repr=False)
    scale: float = 1.0
    name: str = "default"
    dropout: float = 0.0
    trainable: bool = False

    def __post_init__(self) -> None:
        _check_options(self.name, self.scale, self.dropout)
        if not self.pairs:
            raise ExtensionError(f"LoRA {self.name!r} has no factors")

    @property
    def place(self) -> Place:
        return Place.ADAPTER

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [(path, self._wrap) for path in dict.fromkeys(pair.path for pair in self.pairs)]

    def _wrap(self, path: str, inner: nn.Module) -> LoRALinear:
        device = base_linear(path, inner).weight.device
        pairs = [
            replace(pair, lora_a=self._factor(pair.lora_a, device), lora_b=self._factor(pair.lora_b, device))
            for pair in self.pairs
            if pair.path == path
        ]
        return LoRALinear(
            path, inner, pairs, name=self.name, scale=self.scale, dropout=self.dropout, trainable=self.trainable
        )

    def _factor(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        return tensor.detach().to(device, copy=self.trainable)


def lora_names(network: nn.Module) -> list[str]:
    """Names of the LoRAs on `network`, in the order of their first linear."""
    return list(dict.fromkeys(module.name for module in _loras(network)))


def lora_parameters(network: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """The factors of one LoRA, or of all of them, for an optimizer. Raises ExtensionError if there is none."""
    found = _named(network, name)
    return [parameter for module in found for parameter in module.parameters(recurse=False)]


def lora_pairs(network: nn.Module, name: str) -> tuple[LowRank, ...]:
    """A copy on the CPU of the factors of one LoRA. Raises ExtensionError if there is none of this name."""
    return tuple(
        replace(pair, lora_a=_copy(pair.lora_a), lora_b=_copy(pair.lora_b))
        for module in _named(network, name)
        for pair in module.pairs
    )


def rescale(network: nn.Module, name: str, scale: float) -> None:
    """Change how strongly one LoRA acts, also where it is merged. Raises ExtensionError if there is none."""
    _check_options(name, scale, 0.0)
    for module in _named(network, name):
        module.set_scale(scale)
    for module in _loras(network):
        if module.merged_weight is not None:
            module.merge()


def merge(network: nn.Module) -> None:
    """Add all LoRAs to the weights, for speed: nothing is computed beside a linear any more.

    The replaced weights are kept: `unmerge` and detaching return to them bitwise.

    Raises:
        ExtensionError: there is no LoRA, or one acts on a weight that is not plain. Nothing is merged then.
    """
    _named(network, None)
    try:
        for module in _outermost(network):
            module.merge()
    except ExtensionError:
        unmerge(network)
        raise


def unmerge(network: nn.Module) -> None:
    """Compute beside the linears again. What is not merged stays as it is."""
    for module in _loras(network):
        module.unmerge()


def bake(network: nn.Module) -> None:
    """Make merged weights those of the network. What they were before is lost; detach the LoRAs afterwards."""
    for module in reversed(list(_loras(network))):  # of several on a linear, the outermost holds all
        if module.merged_weight is not None:
            linear = base_linear(module.path, module)
            linear.weight = nn.Parameter(module.merged_weight, requires_grad=linear.weight.requires_grad)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _loras(network: nn.Module) -> Iterator[LoRALinear]:
    return (module for module in network.modules() if isinstance(module, LoRALinear))


def _outermost(network: nn.Module) -> list[LoRALinear]:
    """Of the LoRAs on one linear, the one that is called first."""
    found = list(_loras(network))
    inside = {id(module.inner) for module in found}
    return [module for module in found if id(module) not in inside]


def _named(network: nn.Module, name: str | None) -> list[LoRALinear]:
    found = [module for module in _loras(network) if name in (None, module.name)]
    if not found:
        names = lora_names(network)
        held = f"it has {', '.join(names)}" if names else "it has none"
        wanted = "a LoRA" if name is None else f"a LoRA named {name!r}"
        raise ExtensionError(f"the network does not have {wanted}: {held}")
    return found


def _choose_rows(path: str, linear: nn.Linear, patterns: Sequence[str]) -> list[str]:
    """Names of the row blocks that match, in the order of the rows; none for a linear without them."""
    names = linear.names if isinstance(linear, StackedLinear) else ()
    for pattern in patterns:
        if not names and pattern != "*":
            raise ExtensionError(
                f"{path}:{pattern} matches nothing: this linear has no row blocks; leave out :{pattern}"
            )
        if names and not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or names
            raise ExtensionError(f"{path}:{pattern} matches nothing: row blocks there are {', '.join(near)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _check_options(name: str, scale: float, dropout: float) -> None:
    if not re.fullmatch(r"[\w-]+", name):
        raise ExtensionError(f"the name of a LoRA has letters, digits, _ and - alone, got {name!r}")
    if not math.isfinite(scale):
        raise ExtensionError(f"the scale of a LoRA is a finite number, got {scale}")
    if not 0 <= dropout < 1:
        raise ExtensionError(f"the dropout of a LoRA is at least 0 and below 1, got {dropout}")
