"""Two steps of a recipe on its own data, to see that all fits together, and what a step takes. Nothing is kept."""

from __future__ import annotations

import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging

from cogworks.config.recipe import Recipe
from cogworks.training.clips.batches import Batch, CaptionBatch
from cogworks.training.clips.prepare import make_ready
from cogworks.training.optim import warm_average
from cogworks.training.run import PreparedRun, prepare_run, trainer_options
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.watching.watch import peak_resident, sample_tokens

STEPS = 2  # the first one warms up: memory is found, kernels are chosen


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a dry run found.

    Attributes:
        parameters, trained: values in all networks, and those of them that learn.
        memory: most bytes that were held on the device; on a CPU by the process.
        beyond: of these, what the process did not hold before the recipe was built.
        step_seconds: of the second step, its data included.
        tokens: of a sample, text and video; 0 for a VAE.
        steps: of the run.
        loss: of the second step.
    """

    parameters: int
    trained: int
    memory: int
    beyond: int
    step_seconds: float
    tokens: int
    steps: int
    loss: float

    @property
    def seconds(self) -> float:
        """Of all steps of the run."""
        return self.step_seconds * self.steps


def dry_run(recipe: Recipe) -> DryRun:
    """Build everything that a recipe names and take two real steps, on one device. Its folder is not touched.

    Raises:
        RecipeError, DataError, WeightsError: what the recipe names is not there or does not fit.
    """
    torch.set_num_threads(recipe.threads)
    make_ready(recipe)
    gc.collect()
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        alone = recipe.model_copy(update={"output": Path(folder), "devices": 1, "data_workers": 0})
        run = prepare_run(alone)
        watch = _Steps()
        _fit(run, watch)
    module = run.module
    networks = [module, *module.frozen]
    on_gpu = watch.allocated is not None
    memory = watch.allocated if watch.allocated is not None else watch.resident
    return DryRun(
        parameters=sum(weight.numel() for network in networks for weight in network.parameters()),
        trained=sum(weight.numel() for weight in module.parameters() if weight.requires_grad),
        memory=memory,
        beyond=memory if on_gpu else max(memory - before, 0),
        step_seconds=watch.times[-1] - watch.times[-2],
        tokens=watch.tokens,
        steps=recipe.steps,
        loss=watch.loss,
    )


class _Steps(Callback):
    """Notes what a step takes."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens = 0
        self.resident = 0
        self.allocated: int | None = None
        self.loss = float("nan")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == len(self.times):  # a part of a step
            return
        self.loss = float(trainer.callback_metrics["loss"])  # waits for the device
        self.times.append(time.perf_counter())
        self.resident = peak_resident()
        if pl_module.device.type == "cuda":
            self.allocated = torch.cuda.max_memory_reserved(pl_module.device)
        if isinstance(pl_module, TransformerModule):
            assert not isinstance(batch, CaptionBatch)
            self.tokens = sample_tokens(pl_module.model.variant, batch)


def _fit(run: PreparedRun, watch: Callback) -> None:
    callbacks = [watch]
    if run.recipe.average is not None:
        callbacks.append(WeightAveraging(avg_fn=warm_average(run.recipe.average.decay)))
    trainer = L.Trainer(
        **trainer_options(run.recipe),
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=callbacks,
    )
    try:
        trainer.fit(run.module, datamodule=run.data)
    except SystemExit:  # what Lightning makes of an interrupt
        raise KeyboardInterrupt from None
