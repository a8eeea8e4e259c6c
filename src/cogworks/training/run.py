"""Run a recipe: build the module, hand it to Lightning, resume where it stopped.

A run lives in its output folder: `last.ckpt` (resumed from when it exists), `logs/`, and what training left
(`codec.safetensors`, `spiece.model`).
"""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from cogworks.config.recipe import TransformerRecipe, VAERecipe
from cogworks.config.variants import VARIANTS
from cogworks.errors import RecipeError
from cogworks.models.tokenizer import Tokenizer
from cogworks.training.batches import ShapesBatches, read_batch
from cogworks.training.linear_codec import LinearCodec
from cogworks.training.transformer_module import TransformerModule
from cogworks.training.vae_module import VAEModule
from cogworks.training.vocabulary import train_vocabulary

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"


def train(recipe: VAERecipe | TransformerRecipe) -> Path:
    """Run `recipe` to its last step, resuming from its output folder. Returns that folder.

    Raises:
        RecipeError: the variant is unknown.
    """
    torch.set_num_threads(recipe.threads)
    folder = recipe.output
    folder.mkdir(parents=True, exist_ok=True)
    module = _vae_module(recipe) if isinstance(recipe, VAERecipe) else _transformer_module(recipe, folder)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="auto",
        devices=1,
        max_steps=recipe.steps,
        precision=recipe.precision,
        gradient_clip_val=recipe.clip_norm,
        log_every_n_steps=recipe.log_every,
        logger=[CSVLogger(folder, name="logs", version=""), TensorBoardLogger(folder, name="tensorboard", version="")],
        callbacks=[
            EMAWeightAveraging(decay=recipe.ema_decay),
            ModelCheckpoint(
                dirpath=folder,
                filename="step{step:06d}",
                auto_insert_metric_name=False,
                save_last=True,
                train_time_interval=datetime.timedelta(minutes=recipe.checkpoint_minutes),
                enable_version_counter=False,
            ),
            RichProgressBar(refresh_rate=recipe.log_every),
        ],
        enable_model_summary=False,
    )
    last = folder / CHECKPOINT
    if last.exists():
        log.info("resuming from %s", last)
    trainer.fit(module, ShapesBatches(recipe.data, recipe.batch_size), ckpt_path=last if last.exists() else None)
    trainer.save_checkpoint(last)
    return folder


def _transformer_module(recipe: TransformerRecipe, folder: Path) -> TransformerModule:
    variant = VARIANTS[recipe.variant]
    vocabulary = folder / "spiece.model"
    if not vocabulary.exists():
        train_vocabulary(vocabulary, variant.text_encoder.vocab_size, recipe.data.seed)
    tokenizer = Tokenizer(vocabulary)
    codec = fitted_codec(recipe.vae, recipe, variant.vae.latent_channels, 300)
    return TransformerModule(
        recipe, variant, codec.encode, lambda captions: tokenizer.encode(captions, variant.transformer.text_tokens)
    )


def _vae_module(recipe: VAERecipe) -> VAEModule:
    variant = VARIANTS[recipe.variant]
    codec = fitted_codec(recipe.output, recipe, variant.vae.latent_channels, recipe.codec_clips)
    return VAEModule(recipe, variant, codec)


def fitted_codec(folder: Path, recipe: VAERecipe | TransformerRecipe, channels: int, clips: int = 700) -> LinearCodec:
    """The codec of a VAE run, fitted and kept there the first time it is asked for."""
    path = folder / "codec.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        LinearCodec.fit(read_batch(recipe.data, range(clips)).pixels, channels).save(path)
    return LinearCodec.load(path)
