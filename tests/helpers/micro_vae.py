"""VAE runs of the smallest widths: recipes, modules, batches, and a trainer like that of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from cogworks.config.recipe import parse_recipe
from cogworks.config.training_data import ShapesData
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import TINY
from cogworks.training.clips.batches import PixelBatch, ShapesBatches
from cogworks.training.clips.data_module import Numbers
from cogworks.training.vae.module import VAEModule
from cogworks.training.vae.start import TrainingVAE, new_vae

MICRO = replace(
    TINY,
    vae=replace(TINY.vae, widths=(4, 4, 4), latent_channels=4, layers_per_block=1, norm_groups=2),
)
PERCEPTUAL: dict[str, Any] = {"weight": 0.1}
DISCRIMINATOR: dict[str, Any] = {"start_step": 0, "width": 4, "stages": 2, "time_stages": 1}


def micro_recipe(tmp_path: Path, **changes: Any) -> VAERecipe:
    values: dict[str, Any] = {
        "version": 1,
        "kind": "vae",
        "variant": "tiny",
        "output": str(tmp_path),
        "steps": 10,
        "batch_size": 2,
        "threads": 1,
        "optimizer": {"learning_rate": 3e-3},
        "learning_rate": {"warmup_steps": 0},
        "data": {"kind": "shapes", "size": 16, "frames": 9},
    }
    recipe = parse_recipe({**values, **changes}, "micro")
    assert isinstance(recipe, VAERecipe)
    return recipe


def micro_module(recipe: VAERecipe) -> VAEModule:
    return VAEModule(recipe, TrainingVAE(MICRO, new_vae(MICRO, recipe.seed), None))


def batch_of(recipe: VAERecipe, number: int = 0) -> PixelBatch:
    assert isinstance(recipe.data, ShapesData)
    return ShapesBatches(recipe.data, recipe.batch_size)[number]


class Recorder(L.Callback):
    """The metrics of every batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items()})


class Keep(L.Callback):
    """A checkpoint after each of these steps, at `path` and the number of the step."""

    def __init__(self, path: Path, steps: set[int]) -> None:
        self.path = path
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step in self.steps:
            self.steps.remove(trainer.global_step)  # the next part of an accumulated batch comes at the same step
            trainer.save_checkpoint(f"{self.path}{trainer.global_step}")


def fit(
    module: VAEModule, *callbacks: L.Callback, start: int = 0, stop: int | None = None, checkpoint: Path | None = None
) -> L.Trainer:
    """Steps `start` to `stop` of a recipe, with a trainer like that of a run."""
    recipe = module.recipe
    assert isinstance(recipe.data, ShapesData)
    trainer = L.Trainer(
        max_steps=stop or recipe.steps,
        accelerator="cpu",
        devices=1,
        precision=recipe.precision,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    parts = recipe.accumulate
    batches = ShapesBatches(recipe.data, recipe.batch_size // parts)
    loader = DataLoader(batches, batch_size=None, sampler=Numbers(start * parts))  # type: ignore[arg-type]  # it has no length
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer
