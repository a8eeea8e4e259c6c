"""Calls that repeat: a clip goes through the VAE in pieces, a picture in tiles or strips, and most of them are alike.

The first call of a kind is run under the meter; those that follow take from it what was held and done.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
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
        self._fills: dict[Hashable, Rise] = {}
        # What the contexts of calls that were not run would hold; a context that is here has seen a piece.
        self._kept: WeakKeyDictionary[TimeContext, list[Tensor]] = WeakKeyDictionary()

    def forward(self, x: Tensor, context: TimeContext) -> Tensor:
        key = type(context), context in self._kept, x.shape, x.stride(), x.dtype
        kept = self._kept.setdefault(context, [])
        call = self._calls.get(key)
        if call is None:
            seen = context if context.strips == 1 else _Strips(context, self.meter, self._fills)
            made, rise = self.meter.observe(lambda: self.network(x, seen))
            self._calls[key] = _Call(rise, rise.left - made.numel() * made.element_size(), Form.of(made))
            return made
        self.meter.repeat(call.rise)
        kept.append(torch.empty(max(call.kept, 0), dtype=torch.uint8, device="meta"))
        return call.made.tensor()


class _Strips(TimeContext):
    """Stands in for a context whose layers work in strips: what fills those of the same place and size is run once.

    Args:
        fills: what is known of them so far.
    """

    def __init__(self, context: TimeContext, meter: Meter, fills: dict[Hashable, Rise]) -> None:
        self.context, self.meter, self.fills = context, meter, fills
        self.strips = context.strips

    def extend(self, conv: Hashable, x: Tensor, frames: int) -> Tensor:
        return self.context.extend(conv, x, frames)

    def fill(
        self, conv: Hashable, x: Tensor, frames: int, write: Callable[[Tensor], None], height: int | None = None
    ) -> Tensor:
        place = conv[1] if isinstance(conv, tuple) else None
        key = place, x.shape, x.dtype, height

        def written(room: Tensor) -> Tensor:
            write(room)
            return room

        def count(room: Tensor) -> None:
            if key in self.fills:
                self.meter.repeat(self.fills[key])
            else:
                _, self.fills[key] = self.meter.observe(lambda: written(room))

        return self.context.fill(conv, x, frames, count, height)

    def lead_frames(self, frames: int) -> int:
        return self.context.lead_frames(frames)

    def statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor] | None:
        return self.context.statistics(x, groups)
