"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cogworks.extensions.attach import Place, Wrapper, WrapperFactory
from cogworks.nn.blocks import Conditioning
from cogworks.nn.layout import StepInfo, TokenLayout


@dataclass(frozen=True)
class ActivationCheckpointing:
    """Keep the input of each block alone: a third more work for a training step, and the activations of one block.

    Gradients are the same bitwise, dropout included. Source: arXiv:1604.06174.
    """

    @property
    def place(self) -> Place:
        return Place.RECOMPUTATION

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [("runner", lambda path, inner: _Recomputing(inner))]


class _Recomputing(Wrapper):
    def forward(
        self,
        blocks: Iterable[nn.Module],
        tokens: Tensor,
        conditioning: Conditioning,
        layout: TokenLayout,
        step: StepInfo | None,
    ) -> Tensor:
        recomputed = [partial(checkpoint, block, use_reentrant=False) for block in blocks]
        result: Tensor = self.inner(recomputed, tokens, conditioning, layout, step)
        return result
