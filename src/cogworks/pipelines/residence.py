"""Where each network is while a pipeline works: in memory all together, or one after the other.

One after the other means, on an accelerator with memory of its own, that a network which does not work waits on the
host; elsewhere there is no other place, and it is dropped and read again from its file at its next use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cogworks.errors import MemoryShortageError
from cogworks.pipelines.memory import SHARED_MEMORY, is_out_of_memory, release_unused
from cogworks.pipelines.progress import OnProgress, Progress, ignore
from cogworks.weights.lazy import LazyNetwork, M
from cogworks.weights.load import Components

log = logging.getLogger(__name__)


class Residence:
    """Hands out networks to work with, on the device.

    Args:
        components: whose networks.
        offload: keep only the network that works.
        on_progress: hears of phase "load" while a file is read.
    """

    def __init__(self, components: Components, *, offload: bool = False, on_progress: OnProgress = ignore) -> None:
        self.components = components
        self.offload = offload
        self.on_progress = on_progress
        self._said: set[str] = set()

    @contextmanager
    def use(self, part: LazyNetwork[M]) -> Iterator[M]:
        """The network on the device, until the block ends; the others are put aside before if offloading.

        Raises:
            WeightsError: its file is missing, damaged or of another model.
            MemoryShortageError: there is no room for it.
        """
        if self.offload:
            self._put_aside_others(part)
        try:
            yield self.bring(part)
        finally:
            if self.offload:
                self._put_aside(part)

    def bring(self, part: LazyNetwork[M]) -> M:
        """The network on the device, read or moved there; where it has no room beside the others, these are put aside.

        Raises:
            WeightsError, MemoryShortageError: as `use`.
        """
        while True:
            try:
                return self._bring(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if not self.relieve(part):
                size, device = part.form.num_bytes / 1e9, self.components.device
                raise MemoryShortageError(
                    f"there is no room for the {part.name} ({size:.1f} GB) on {device}; free memory, or choose a "
                    "narrower dtype or a smaller model"
                )
            log.warning("no room for the %s beside the other networks: they are put aside", part.name)

    def relieve(self, part: LazyNetwork) -> bool:
        """Offload from now on, to make room for `part`. False if that was so already."""
        if self.offload:
            return False
        self.offload = True
        self._put_aside_others(part)
        return True

    def _bring(self, part: LazyNetwork[M]) -> M:
        if not part.loaded:
            return part.get(lambda done, total: self.on_progress(Progress("load", done, total, part.name)))
        network = part.get()
        if _device_of(network) != self.components.device:
            network.to(self.components.device)
        return network

    def _put_aside_others(self, part: LazyNetwork) -> None:
        for other in self.components.networks:
            if other is not part:
                self._put_aside(other)

    def _put_aside(self, part: LazyNetwork) -> None:
        if not part.loaded:
            return
        if self.components.device.type not in SHARED_MEMORY:
            part.get().to("cpu")
        elif not part.drop() and part.name not in self._said:
            self._said.add(part.name)
            log.info("the %s stays in memory: it was taken from the pipeline and may have been changed", part.name)
        release_unused(self.components.device)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
