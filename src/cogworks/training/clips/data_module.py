"""The batches of a run for Lightning: which come next, and where a resumed run goes on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Sampler

from cogworks.training.clips.batches import Batch, Batches
from cogworks.training.safety.interrupts import leave_signals_to_the_run

log = logging.getLogger(__name__)


class RunData(L.LightningDataModule):
    """Batches `next`, `next` + 1, ... of this replica.

    Args:
        open_batches: (replica, replicas) -> batches.
        workers: processes that prepare batches.

    Attributes:
        skipped: batches that were passed over when the run was set back.
        rollbacks: how often it was.
        not_before: the first batch that it may see.
    """

    def __init__(self, open_batches: Callable[[int, int], Batches], workers: int) -> None:
        super().__init__()
        self.open_batches = open_batches
        self.workers = workers
        self.skipped = self.rollbacks = self.not_before = 0
        self._fingerprint: str | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        batches = self.open_batches(trainer.global_rank, trainer.world_size)
        found = batches.fingerprint()
        if self._fingerprint not in (None, found):
            log.warning("the data changed since the checkpoint was made: this run will not repeat an unbroken one")
        self._fingerprint = found
        done = trainer.fit_loop.total_batch_idx + 1
        self.skipped = max(self.skipped, self.not_before - done)
        return DataLoader(
            batches,  # type: ignore[arg-type]  # a function of the number, without a length
            batch_size=None,
            sampler=Numbers(done + self.skipped),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=leave_signals_to_the_run,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "rollbacks": self.rollbacks, "fingerprint": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = max(self.skipped, state_dict["skipped"])
        self.rollbacks = max(self.rollbacks, state_dict["rollbacks"])
        self._fingerprint = state_dict["fingerprint"]


class Numbers(Sampler[int]):
    """`start`, `start` + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)
