"""Calls that repeat: a clip goes through the VAE in pieces, a picture in tiles, and most of them are alike.

The first call of a kind is run under the meter; those that follow take from it what was held and done.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cogworks.nn.time_context import TimeContext
from cogworks.pipelines.planning.meter import Meter, Rise
from cogworks.pipelines.planning.results import Form


@dataclass(frozen=True)
class _Call:
    """What a call did.

    Attributes:
        kept: bytes that its time context holds since then.
        made: its result.
    """

    rise: Rise
    kept: int
    made: Form


class Repeating(nn.Module):
    """Stands in for the encoder or decoder of a VAE in a dry run."""

    def __init__(self, network: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.network, self.meter = network, meter
        self._calls: dict[Hashable, _Call] = {}
        # What the contexts of calls that were not run would hold; a context that is here has seen a piece.
        self._kept: WeakKeyDictionary[TimeContext, list[Tensor]] = WeakKeyDictionary()

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:
        key = type(context), context in self._kept, x.shape, x.stride(), x.dtype
        kept = self._kept.setdefault(context, [])
        call = self._calls.get(key)
        if call is None:
            made, rise = self.meter.observe(lambda: self.network(x, context))
            form = Form(tuple(made.shape), made.stride(), made.dtype)
            self._calls[key] = _Call(rise, rise.left - made.numel() * made.element_size(), form)
            return made
        self.meter.repeat(call.rise)
        kept.append(torch.empty(max(call.kept, 0), dtype=torch.uint8, device="meta"))
        return torch.empty_strided(call.made.shape, call.made.strides, dtype=call.made.dtype, device="meta")
