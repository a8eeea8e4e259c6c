"""When a run writes checkpoints, which of them stay, and how it stops when it is told to.

A checkpoint is only ever written between two steps of the optimizer: gradients, and with them the parts of a step that
is not complete, are in no checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cogworks.config.training import CheckpointOptions
from cogworks.training.safety.checkpoints import BEST, LAST, TEMPORARY, step_file, step_files, step_of
from cogworks.training.safety.interrupts import Interrupts
from cogworks.weights.storage import replacing

log = logging.getLogger(__name__)

LEAST_STEPS = 20
"""Steps that a mean loss must be of to be the best one; the loss of a few is chance."""


class KeepCheckpoints(Checkpoint):
    """Writes checkpoints and removes old ones.

    The last one is written after the last step, and when the run is interrupted. `best.ckpt` is the one with the
    lowest mean loss since the one before it; where those are fewer than `LEAST_STEPS` steps, they count for the next.
    Every checkpoint is written once: `last.ckpt` and `best.ckpt` are hard links, or copies where there are none.
    """

    def __init__(self, folder: Path, options: CheckpointOptions) -> None:
        self.folder = folder
        self.options = options
        self.interrupts = Interrupts()
        self._saved_at = 0.0  # on the clock of `time.monotonic`
        self._step = 0  # steps that are done
        self._losses: Tensor | None = None  # the sum since the last judgement, and of how many batches
        self._batches = 0
        self._judged_at = 0
        self._best: float | None = None
        self._best_step: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tidy()
            self._settle()
        self.interrupts.watch()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = trainer.callback_metrics["loss"].detach().double()
        self._losses = loss if self._losses is None else self._losses + loss
        self._batches += 1
        if trainer.global_step == self._step:  # a part of a step
            return
        self._step = trainer.global_step
        due, interrupted = self._agree(trainer, pl_module)
        every = self.options.every_steps
        if due or interrupted or self._step >= trainer.max_steps or (every is not None and self._step % every == 0):
            self._save(trainer)
        if interrupted and self._step < trainer.max_steps:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupts.ignore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.interrupts.ignore()

    def state_dict(self) -> dict[str, Any]:
        losses = None if self._losses is None else float(self._losses)
        return {
            "losses": losses,
            "batches": self._batches,
            "judged_at": self._judged_at,
            "best": self._best,
            "best_step": self._best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        losses = state_dict["losses"]
        self._losses = None if losses is None else torch.tensor(losses, dtype=torch.float64)
        self._batches = state_dict["batches"]
        self._judged_at = state_dict["judged_at"]
        self._best, self._best_step = state_dict["best"], state_dict["best_step"]

    def _agree(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[bool, bool]:
        """Whether a checkpoint is due by the clock, and whether any replica was interrupted."""
        due = time.monotonic() - self._saved_at >= 60 * self.options.minutes
        if trainer.world_size == 1:
            return due, self.interrupts.asked
        votes = torch.tensor([due and trainer.is_global_zero, self.interrupts.asked], device=module.device).float()
        votes = trainer.strategy.reduce(votes, reduce_op="max")
        return bool(votes[0]), bool(votes[1])

    def _save(self, trainer: L.Trainer) -> None:
        if self.options.best:
            self._judge(trainer)  # before: the checkpoint says what the best one is, itself included
        trainer.save_checkpoint(step_file(self.folder, self._step), weights_only=False)
        if trainer.is_global_zero:
            self._settle()
        self._saved_at = time.monotonic()

    def _judge(self, trainer: L.Trainer) -> None:
        """Find out whether the steps since the last judgement were the best so far."""
        last = self._step >= trainer.max_steps and self._best is None
        if self._losses is None or (self._step - self._judged_at < LEAST_STEPS and not last):
            return
        mean = self._mean(trainer)
        self._losses, self._batches, self._judged_at = None, 0, self._step
        if self._best is None or mean < self._best:
            self._best, self._best_step = mean, self._step

    def _mean(self, trainer: L.Trainer) -> float:
        """Of the losses since the last judgement, on all replicas."""
        assert self._losses is not None  # a step was taken
        return float(trainer.strategy.reduce(self._losses / self._batches, reduce_op="mean"))

    def _tidy(self) -> None:
        """Remove what a killed process left half written, and put aside what the run did not go on from."""
        for path in self.folder.glob(TEMPORARY):
            path.unlink()
        for path in step_files(self.folder):
            if step_of(path) > self._step:
                aside = path.with_name(f"{path.name}.damaged")
                log.warning("%s is put aside as %s", path.name, aside.name)
                path.replace(aside)

    def _settle(self) -> None:
        """Give the last and the best checkpoint their names, and remove what is not to be kept.

        It may be interrupted anywhere, and done again.
        """
        paths = step_files(self.folder)
        if paths:
            _link(paths[-1], self.folder / LAST)
        if self._best_step is not None and step_file(self.folder, self._best_step) in paths:
            _link(step_file(self.folder, self._best_step), self.folder / BEST)
        every = self.options.every_steps
        for path in paths[: -self.options.keep]:
            if every is None or step_of(path) % every:
                path.unlink()


def _link(source: Path, name: Path) -> None:
    """Make `name` another name of a file, at once; a copy where the disk knows no hard links."""
    with replacing(name) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
