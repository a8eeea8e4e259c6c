"""A linear with low-rank factors beside it.

Letters: I input width, O output rows, r rank.
Source: LoRA, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Wrapper
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank, add_low_rank, row_slices
from cogworks.nn.products import linear


@dataclass(frozen=True)
class _Part:
    """One factor pair: where it acts, and under which names its factors are held."""

    rows: tuple[str, ...]
    slices: list[slice]
    alpha: float
    strength: float
    a: str
    b: str


class LoRALinear(Wrapper):
    """y = inner(x) + scale (alpha / r) x lora_a^T lora_b^T, with a factor pair for each row block that has one.

    The product is computed in the dtype of x, whatever that of the factors. The factors are parameters named
    `lora_a:NAME` and `lora_b:NAME`, and `lora_a:NAME:ROWS` for row blocks; keys of the base stay what they are.

    Dropout draws from torch's global generator: activation checkpointing saves and restores no other.

    Args:
        path: of the linear in its network.
        inner: what is there, a linear or a wrapper of one.
        pairs: what is added, all for this path. The factors become parameters without being copied.
        name: of the LoRA; several on one linear have different names.
        scale: how strongly it acts; see `set_scale`.
        dropout: share of the inputs of the factors that is zero in training, in [0, 1).
        trainable: whether the factors take gradients.

    Raises:
        ExtensionError: `inner` is no linear, a pair does not fit it, or a LoRA of this name acts on these rows already.
    """

    returns_fresh = True
    scale: Tensor
    merged_weight: Tensor | None

    def __init__(
        self,
        path: str,
        inner: nn.Module,
        pairs: Sequence[LowRank],
        *,
        name: str,
        scale: float = 1.0,
        dropout: float = 0.0,
        trainable: bool = False,
    ) -> None:
        super().__init__(inner)
        self.path = path
        self.name = name
        self.dropout = dropout
        self._linear = [base_linear(path, inner)]  # in a list, so that it is not registered a second time
        self._check_overlap(pairs)
        self._parts = [self._register(pair, trainable) for pair in pairs]
        # A tensor, so that a compiled block reads a new value without being compiled again.
        device = pairs[0].lora_a.device
        self.register_buffer("scale", torch.tensor(float(scale), device=device), persistent=False)
        self.register_buffer("merged_weight", None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight without any LoRA, whose dtype and device are those of the linear."""
        weight = self.inner.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        return self._linear[0].bias

    @property
    def pairs(self) -> tuple[LowRank, ...]:
        """The factors as they are now, not copied."""
        return tuple(
            LowRank(self.path, part.rows, getattr(self, part.a), getattr(self, part.b), part.alpha)
            for part in self._parts
        )

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        if self.merged_weight is not None:
            return linear(x, self.merged_weight, self.bias)
        seen = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return self.inner(x) + self._change(seen)

    def set_scale(self, scale: float) -> None:
        """How strongly the LoRA acts: 0 not at all, 1 as it was trained; any number."""
        self.scale.fill_(scale)

    @torch.no_grad()
    def merge(self) -> None:
        """Compute with one weight, the base with this LoRA and those inside it added, rounded once to the base's dtype.

        The base is kept beside it and `unmerge` returns to it. Factors and scales that change later are not seen.

        Raises:
            ExtensionError: the base holds no plain weight.
        """
        self.merged_weight = self._total().to(self.weight.dtype)

    def unmerge(self) -> None:
        self.merged_weight = None

    def _total(self) -> Tensor:
        if isinstance(self.inner, LoRALinear):
            weight = self.inner._total()
        elif isinstance(self.inner, nn.Linear):
            weight = self.inner.weight
        else:
            raise ExtensionError(
                f"{self.path} holds a {type(self.inner).__name__}: LoRA merges into plain weights alone"
            )
        scale = float(self.scale)
        return add_low_rank(weight, self._linear[0], [(pair, scale) for pair in self.pairs])

    def _change(self, x: Tensor) -> Tensor:
        pieces: dict[int, Tensor] = {}
        for part in self._parts:
            lora_a, lora_b = getattr(self, part.a).to(x.dtype), getattr(self, part.b).to(x.dtype)
            change = linear(linear(x, lora_a) * (self.scale * part.strength), lora_b)
            if not part.rows:
                return change
            for rows, piece in zip(part.slices, change.chunk(len(part.slices), dim=-1), strict=True):
                pieces[rows.start] = piece
        base = self._linear[0]
        assert isinstance(base, StackedLinear)
        unchanged = x.new_zeros(*x.shape[:-1], base.block_features)
        starts = range(0, base.out_features, base.block_features)
        return torch.cat([pieces.get(start, unchanged) for start in starts], dim=-1)

    def _register(self, pair: LowRank, trainable: bool) -> _Part:
        try:
            slices = row_slices(self._linear[0], pair)
        except ValueError as error:
            raise ExtensionError(f"LoRA {self.name!r} does not fit this model: {error}") from None
        suffix = ":".join(("", self.name, *pair.rows))
        part = _Part(pair.rows, slices, pair.alpha, pair.strength, f"lora_a{suffix}", f"lora_b{suffix}")
        self.register_parameter(part.a, nn.Parameter(pair.lora_a, requires_grad=trainable))
        self.register_parameter(part.b, nn.Parameter(pair.lora_b, requires_grad=trainable))
        return part

    def _check_overlap(self, pairs: Sequence[LowRank]) -> None:
        taken: list[str] = [row for pair in pairs for row in pair.rows or ("",)]
        inside = self.inner
        while isinstance(inside, Wrapper):
            if isinstance(inside, LoRALinear) and inside.name == self.name:
                taken += [row for part in inside._parts for row in part.rows or ("",)]
            inside = inside.inner
        twice = sorted({row for row in taken if taken.count(row) > 1})
        if twice:
            place = f"{self.path}:{twice[0]}" if twice[0] else self.path
            raise ExtensionError(f"a LoRA named {self.name!r} acts on {place} twice; give each LoRA a name of its own")


def base_linear(path: str, module: nn.Module) -> nn.Linear:
    """The linear at `path`, without what is wrapped around it. Raises ExtensionError if it is something else."""
    while isinstance(module, Wrapper):
        module = module.inner
    if not isinstance(module, nn.Linear):
        raise ExtensionError(f"{path} is a {type(module).__name__}; a LoRA goes to linears alone")
    return module
