"""What a run tells while it goes: how far it is, how fast, and what it holds.

Names of what is logged: `gradient_norm` before clipping, `learning_rate`, `samples_per_second` and `tokens_per_second`
of all devices together, `memory/...` in bytes; `loss` of the last batch, which the modules log, and of a transformer
`loss/mean` and `loss/band_0` (nearly clean) to `loss/band_3` (nearly noise) of all since the last row.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import Tensor

from cogworks.config.training import Run
from cogworks.config.variants import Variant
from cogworks.training.clips.batches import Batch, CaptionBatch, ClipBatch, LatentBatch, batch_size
from cogworks.training.optim import MuonAndAdamW
from cogworks.training.safety.sentinel import gradient_norm
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.watching.samples import SampleVideos

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps of the run): once at the beginning and after each step."""

BANDS = 4
"""Parts of the noise levels, from clean to pure noise, whose losses are logged apart."""
WINDOW = 100
"""Steps whose mean time says how much is left."""


def watchers(recipe: Run, on_step: OnStep | None = None) -> list[Callback]:
    """The callbacks with which a run shows itself.

    They belong after the one that averages weights: sample videos are made with the average.

    Args:
        on_step: hears of every step; then the run shows no progress by itself.
    """
    callbacks: list[Callback] = [Vitals(recipe.log_every), RunProgress(recipe.log_every, on_step)]
    if recipe.samples is not None:
        callbacks.append(SampleVideos(recipe, recipe.samples))
    return callbacks


class Vitals(Callback):
    """Logs what of a step is not a loss, every `every` steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._began = 0.0
        self._samples = self._tokens = 0
        self._seen = 0  # steps of the optimizer

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = trainer.global_step
        self._restart()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % self.every:
            return
        pl_module.log("gradient_norm", gradient_norm(pl_module))
        for name, rate in learning_rates(optimizer).items():
            pl_module.log(name, rate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        size = batch_size(batch)
        self._samples += size * trainer.world_size
        if isinstance(pl_module, TransformerModule):
            assert not isinstance(batch, CaptionBatch)
            self._tokens += size * sample_tokens(pl_module.model.variant, batch) * trainer.world_size
        if trainer.global_step == self._seen:  # a part of a step
            return
        self._seen = trainer.global_step
        # By this name Lightning takes it for the step of the row: steps done, where it would count from 0.
        pl_module.log("step", float(self._seen))
        if self._seen % self.every:
            return
        if isinstance(pl_module, TransformerModule):
            pl_module.log_dict(recent_losses(pl_module), batch_size=size)
        seconds = time.perf_counter() - self._began
        measured = {"samples_per_second": self._samples / seconds}
        if self._tokens:
            measured["tokens_per_second"] = self._tokens / seconds
        pl_module.log_dict(measured | peak_memory(pl_module.device), batch_size=size)
        self._restart()

    def _restart(self) -> None:
        self._began, self._samples, self._tokens = time.perf_counter(), 0, 0


class RunProgress(ProgressBar):
    """How far a run is: a bar with the time left on a terminal, a line of the log every `every` steps elsewhere.

    Lightning's own bars count the batches of an epoch, and the batches of a run have no end.
    """

    def __init__(self, every: int, on_step: OnStep | None = None) -> None:
        super().__init__()
        self.every = every
        self.on_step = on_step
        self._enabled = True
        self._bar: tuple[Progress, TaskID] | None = None
        self._times: deque[tuple[int, float]] = deque(maxlen=WINDOW)  # (steps done, when)

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._times.clear()
        self._times.append((trainer.global_step, time.monotonic()))
        if not self._enabled:
            return
        if self.on_step is not None:
            self.on_step(trainer.global_step, trainer.max_steps)
        elif sys.stderr.isatty():
            self._start_bar(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        done, steps = trainer.global_step, trainer.max_steps
        if not self._enabled or done == self._times[-1][0]:
            return
        self._times.append((done, time.monotonic()))
        if self.on_step is not None:
            self.on_step(done, steps)
        elif self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=done, shown=_shown(trainer))
        elif done % self.every == 0 or done == steps:
            log.info("step %d of %d: %s%s", done, steps, _shown(trainer), self._left(steps - done))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_bar()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _left(self, steps: int) -> str:
        """The time that so many steps will take, in words; nothing at the end."""
        (first, begun), (last, now) = self._times[0], self._times[-1]
        return f", {in_words((now - begun) / (last - first) * steps)} left" if steps else ""

    def _start_bar(self, trainer: L.Trainer) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
            redirect_stdout=False,
            speed_estimate_period=600,
        )
        task = bar.add_task("training", total=trainer.max_steps, completed=trainer.global_step, shown="")
        bar.start()
        self._bar = bar, task

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def sample_tokens(variant: Variant, batch: ClipBatch) -> int:
    """Tokens of one sample of a batch: text and video."""
    if isinstance(batch, LatentBatch):
        frames, rows, columns = batch.latents.shape[2:]
    else:
        frames, height, width = batch.pixels.shape[2:]
        frames = (frames - 1) // variant.vae.temporal_stride + 1
        rows, columns = height // variant.vae.spatial_stride, width // variant.vae.spatial_stride
    patch = variant.transformer.patch_size
    return variant.transformer.text_tokens + math.prod(
        -(-size // unit) for size, unit in zip((frames, rows, columns), patch, strict=True)
    )


def recent_losses(module: TransformerModule) -> dict[str, Tensor]:
    """Mean losses since they were last asked for: `loss/mean`, and `loss/band_i` of each part of the noise levels."""
    if not module.recent:
        return {}
    losses = torch.cat([losses for losses, _ in module.recent])
    band = (torch.cat([positions for _, positions in module.recent]) * BANDS).long().clamp(max=BANDS - 1)
    module.recent.clear()
    # One that has no sample is not a number, rather than an old one: Lightning would log that again.
    bands = {f"loss/band_{index}": losses[band.to(losses.device) == index].mean() for index in range(BANDS)}
    return {"loss/mean": losses.mean()} | bands


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates of an optimizer by the names they are logged under."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if isinstance(optimizer, MuonAndAdamW):
        return {"learning_rate": rates[-1], "learning_rate/matrices": rates[0]}
    others = {f"learning_rate/group_{number}": rate for number, rate in enumerate(rates[1:], start=1)}
    return {"learning_rate": rates[0]} | others


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most bytes that this process has held so far, by the names they are logged under."""
    peaks = {"memory/process": float(peak_resident())}
    if device.type == "cuda":
        peaks["memory/allocated"] = float(torch.cuda.max_memory_allocated(device))
        peaks["memory/reserved"] = float(torch.cuda.max_memory_reserved(device))
    return peaks


def peak_resident() -> int:
    """Most bytes of the host's memory that this process has held at once."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KB


def in_words(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _shown(trainer: L.Trainer) -> str:
    """The last losses and speed, as far as there are some."""
    found = trainer.callback_metrics
    loss = found.get("loss/mean", found.get("loss"))
    parts = [] if loss is None else [f"loss {float(loss):.4g}"]
    if "samples_per_second" in found:
        parts.append(f"{float(found['samples_per_second']):.3g} samples/s")
    return ", ".join(parts)
