"""Stops a run, or sets it back, when it has gone wrong.

Three things are looked for: a loss or a gradient that is not finite, before it reaches the weights; a loss that grows
far beyond what it was; samples that turned black or stand still.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn

from cogworks.config.training import SentinelOptions
from cogworks.errors import RunError
from cogworks.training.clips.batches import Batch
from cogworks.training.clips.data_module import RunData

log = logging.getLogger(__name__)

RECENT, WINDOW = 20, 200  # losses whose mean is compared, and those whose median it is compared with
BLACK = 8  # the brightest of 255 in a frame that shows nothing
STILL = 2  # the largest difference between neighbouring frames of a video in which nothing moves


class RolledBack(RunError):  # noqa: N818  # the run goes on
    """The run is to go on from an earlier checkpoint, with other batches.

    Attributes:
        next_batch: the first batch that it may see.
        trusted_step: the last step whose checkpoint is thought to be sound.
        rollbacks: how often the run was set back, this one included.
    """

    def __init__(self, message: str, *, next_batch: int, trusted_step: int, rollbacks: int) -> None:
        super().__init__(message)
        self.next_batch = next_batch
        self.trusted_step = trusted_step
        self.rollbacks = rollbacks


class Sentinel(Callback):
    """Looks at every step before the optimizer takes it. All replicas decide alike.

    What it remembers is in the checkpoint, so that a resumed run judges as an unbroken one.
    """

    def __init__(self, options: SentinelOptions) -> None:
        self.options = options
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._parts: list[Tensor] = []  # losses of the step that is being computed
        self._began = 0  # the step at which this leg of the run began
        self._batch = 0  # the number of the batch that is being computed
        self._shown = False  # an earlier sample was neither black nor still
        self._sample_fault: str | None = None

    def check_samples(self, videos: Sequence[NDArray[np.uint8]]) -> None:
        """Judge the videos of one sampling, each (T, H, W, 3); the next step acts on it, on all replicas.

        A run that begins from nothing shows nothing at first. So samples are a fault only after better ones.
        """
        fault = find_sample_fault(videos)
        if fault is None:
            self._shown = True
        elif self._shown:
            self._sample_fault = fault
        else:
            log.warning("%s", fault)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = batch.number

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._parts.append(trainer.callback_metrics["loss"].detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        loss, finite, samples = self._agree(trainer, pl_module)
        step = trainer.global_step + 1
        if not math.isfinite(loss):
            self._act(trainer, f"the loss of step {step} is {loss}", step - 1)
        if not finite:
            self._act(trainer, f"the gradient of step {step} is not finite", step - 1)
        self._losses.append(loss)
        recent, usual = list(self._losses)[-RECENT:], statistics.median(self._losses)
        # Fewer losses would be mostly recent ones, and so would their median.
        if len(self._losses) > 2 * RECENT and statistics.fmean(recent) > self.options.loss_factor * usual:
            mean = statistics.fmean(recent)
            fault = f"the mean of the {RECENT} losses up to step {step}, {mean:.4g}, is more than "
            fault += f"{self.options.loss_factor:g} times the median of the last {len(self._losses)}, {usual:.4g}"
            self._act(trainer, fault, step - RECENT)
        if samples:
            self._act(trainer, f"before step {step} {self._sample_fault or 'the samples went wrong'}", step - RECENT)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._sample_fault is not None:
            log.warning("at the end of the run %s", self._sample_fault)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self._losses), "shown": self._shown}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses = deque(state_dict["losses"], maxlen=WINDOW)
        self._shown = state_dict["shown"]

    def _agree(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[float, bool, bool]:
        """The mean loss of all replicas, whether all gradients are finite, and whether there are bad samples."""
        loss = torch.stack(self._parts).float().mean()
        self._parts.clear()
        # A gradient scaler takes steps of its own when a gradient of half precision is too large.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        infinite = loss.new_zeros(()) if scaled else 1 - torch.isfinite(gradient_norm(module)).to(loss)
        seen = torch.stack([loss, infinite, torch.full_like(loss, self._sample_fault is not None)])
        total, infinite_ones, bad_samples = trainer.strategy.reduce(seen, reduce_op="sum").tolist()
        return total / trainer.world_size, infinite_ones == 0, bad_samples > 0

    def _act(self, trainer: L.Trainer, fault: str, trusted_step: int) -> None:
        """Stop the run or set it back."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RunData)
        advice = "lower optimizer.learning_rate or optimizer.clip_norm, or compute in precision 32-true"
        if self.options.action == "stop":
            raise RunError(f"{fault}; the checkpoints before it are whole: {advice}")
        if data.rollbacks >= self.options.most_rollbacks:
            raise RunError(f"{fault}, and the run was set back {data.rollbacks} times already: {advice}")
        if data.rollbacks and trainer.global_step < self._began + RECENT:
            # What the run was set back to was no better.
            trusted_step = min(trusted_step, self._began - 1)
        raise RolledBack(fault, next_batch=self._batch + 1, trusted_step=trusted_step, rollbacks=data.rollbacks + 1)


def find_sample_fault(videos: Sequence[NDArray[np.uint8]]) -> str | None:
    """What is wrong with all videos of one sampling, each (T, H, W, 3); None if one of them shows something.

    A single frame cannot stand still.
    """
    if all(video.max() <= BLACK for video in videos):
        return "all sample videos are black"
    if all(len(video) > 1 and _largest_change(video) <= STILL for video in videos):
        return "nothing moves in any sample video"
    return None


def gradient_norm(network: nn.Module) -> Tensor:
    """The norm of all gradients together, a scalar."""
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def _largest_change(video: NDArray[np.uint8]) -> int:
    return int(np.abs(np.diff(video.astype(np.int16), axis=0)).max())
