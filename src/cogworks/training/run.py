"""Run a recipe: build the module, hand it to Lightning, resume where it stopped, export what was learned.

A run lives in its output folder: `checkpoints/` (resumed from when there are some), `metrics.csv`, `tensorboard/`,
`samples/`, and in the end `model/`, a folder that `cogworks.load` and diffusers read, or `lora/` with a LoRA file.
"""

from __future__ import annotations

import errno
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from cogworks.config.recipe import Recipe
from cogworks.config.text_encoder_recipe import TextEncoderRecipe
from cogworks.config.training import Run
from cogworks.config.vae_recipe import VAERecipe
from cogworks.errors import RunError
from cogworks.training.callbacks import build_callbacks
from cogworks.training.clips.data_module import RunData
from cogworks.training.clips.prepare import make_ready
from cogworks.training.clips.prepared import open_batches
from cogworks.training.export import TrainingModule, export
from cogworks.training.safety.alone import alone_in
from cogworks.training.safety.changes import check_recipe
from cogworks.training.safety.checkpoints import SafeCheckpoints, last_good_checkpoint, read_checkpoint, set_back
from cogworks.training.safety.replicas import Replicas, replica
from cogworks.training.safety.sentinel import RolledBack
from cogworks.training.text_encoder.module import TextEncoderModule, open_captions
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import build_model
from cogworks.training.vae.module import VAEModule
from cogworks.training.watching.metrics_file import MetricsFile
from cogworks.training.watching.watch import OnStep

log = logging.getLogger(__name__)


@dataclass
class PreparedRun:
    """All that a recipe needs, built."""

    recipe: Recipe
    module: TrainingModule
    data: RunData


def train(recipe: Recipe, on_step: OnStep | None = None) -> Path:
    """Run `recipe` to its last step, going on from its last checkpoint if it has one, and export what was learned.

    Args:
        on_step: hears how far the run is; without it the run shows that by itself.

    Returns:
        The folder of the exported model, or the file of the LoRA.

    Raises:
        RecipeError, DataError, WeightsError: what the recipe names is not there or does not fit.
        RunError: the run went wrong, or a file could not be written; the last good checkpoint is whole. Or another run
            is at work in the same folder.
        KeyboardInterrupt: it was interrupted; the same call goes on from the last checkpoint.
    """
    torch.set_num_threads(recipe.threads)
    recipe.output.mkdir(parents=True, exist_ok=True)
    with alone_in(recipe.output) if replica() == 0 else nullcontext():
        return _train(recipe, on_step)


def _train(recipe: Recipe, on_step: OnStep | None) -> Path:
    if replica() == 0:
        make_ready(recipe)
    with Replicas(recipe.devices, recipe.threads) as replicas:
        run = prepare_run(recipe)
        checkpoint = last_good_checkpoint(recipe.output)
        while True:
            try:
                fit(run, checkpoint, replicas, on_step)
                break
            except RolledBack as fault:
                log.warning("%s: the run is set back", fault)
                run = prepare_run(recipe)
                run.data.not_before, run.data.rollbacks = fault.next_batch, fault.rollbacks
                checkpoint = set_back(recipe.output, fault.trusted_step)
    if replica() > 0:
        return recipe.output  # the first process exports
    last = last_good_checkpoint(recipe.output)
    assert last is not None  # fit ends with one
    return export(recipe, run.module, last)


def export_checkpoint(recipe: Recipe, checkpoint: Path) -> Path:
    """Write what one checkpoint of a run has learned, where the run would write its last.

    Raises:
        RecipeError: it cannot be read, or is not of this recipe.
    """
    check_recipe(read_checkpoint(checkpoint), recipe, checkpoint)
    return export(recipe, build_module(recipe), checkpoint)


def prepare_run(recipe: Recipe) -> PreparedRun:
    """Build module and data of a recipe, without reading a clip."""
    module = build_module(recipe)
    opened = partial(open_captions, module) if isinstance(module, TextEncoderModule) else partial(open_batches, recipe)
    return PreparedRun(recipe, module, RunData(opened, recipe.data_workers))


def build_module(recipe: Recipe) -> TrainingModule:
    """What trains: the networks that a recipe begins with, and how they learn."""
    if isinstance(recipe, TextEncoderRecipe):
        return TextEncoderModule(recipe)
    return VAEModule(recipe) if isinstance(recipe, VAERecipe) else TransformerModule(recipe, build_model(recipe))


def fit(run: PreparedRun, checkpoint: Path | None, replicas: Replicas, on_step: OnStep | None = None) -> None:
    """Train to the last step of the recipe, from a checkpoint if there is one."""
    trainer = build_trainer(run.recipe, on_step)
    trainer.callbacks.append(replicas)  # type: ignore[attr-defined]
    try:
        trainer.fit(run.module, datamodule=run.data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # what Lightning makes of an interrupt
        raise KeyboardInterrupt from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"the disk of {run.recipe.output} is full: make room and start the run again, and it goes on from its "
            f"last checkpoint"
        ) from None


def build_trainer(recipe: Run, on_step: OnStep | None = None) -> L.Trainer:
    return L.Trainer(
        **trainer_options(recipe),
        max_steps=recipe.steps,
        plugins=[SafeCheckpoints(recipe)],
        logger=[MetricsFile(recipe.output), TensorBoardLogger(recipe.output, name="tensorboard", version="")],
        callbacks=build_callbacks(recipe, on_step),
    )


def trainer_options(recipe: Run) -> dict[str, Any]:
    """How Lightning computes the steps of a recipe."""
    return {
        "default_root_dir": recipe.output,
        "accelerator": "auto",
        "devices": recipe.devices,
        "strategy": "ddp" if recipe.devices > 1 else "auto",
        "precision": recipe.precision,
        "accumulate_grad_batches": recipe.accumulate,
        "gradient_clip_val": recipe.optimizer.clip_norm,
        "log_every_n_steps": recipe.log_every,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
    }
