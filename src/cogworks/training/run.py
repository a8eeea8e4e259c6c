"""Run a recipe: build the module, hand it to Lightning, resume where it stopped, export what was learned.

A run lives in its output folder: `last.ckpt` (resumed from when it exists), `logs/`, what its latents and tokens
need (`codec.safetensors`, `spiece.model`), and in the end `model/`, a folder that `cogworks.load` and diffusers read.
"""

from __future__ import annotations

import datetime
import logging
import shutil
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from cogworks.config.recipe import TransformerRecipe, VAERecipe
from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import RecipeError
from cogworks.models.tokenizer import Tokenizer
from cogworks.training.batches import ShapesBatches, read_batch
from cogworks.training.export import CHECKPOINT, MODEL, VOCABULARY, averaged_state, export, read_checkpoint
from cogworks.training.latents import CODEC, CachedBatches, EncodedBatches, encoder_of
from cogworks.training.linear_codec import LinearCodec
from cogworks.training.optim import warm_average
from cogworks.training.transformer_module import TransformerModule
from cogworks.training.vae_module import VAEModule
from cogworks.training.vocabulary import train_vocabulary

log = logging.getLogger(__name__)


def train(recipe: VAERecipe | TransformerRecipe) -> Path:
    """Run `recipe` to its last step, resuming from its output folder, and export the model.

    Returns:
        The folder of the exported model.

    Raises:
        RecipeError: the variant is unknown, or the VAE run that it builds on is missing.
        KeyboardInterrupt: it was interrupted; the same call goes on from the last checkpoint.
    """
    variant = known_variant(recipe.variant)
    torch.set_num_threads(recipe.threads)
    recipe.output.mkdir(parents=True, exist_ok=True)
    module = build_module(recipe, variant)
    last = recipe.output / CHECKPOINT
    start = read_checkpoint(last)["global_step"] if last.exists() else 0
    if start:
        log.info("resuming at step %d of %d", start, recipe.steps)
    elif recipe.start_from is not None:
        module.load_state_dict(averaged_state(recipe.start_from))
    if start < recipe.steps:
        trainer = _trainer(recipe, start)
        batches = build_batches(recipe, variant, start)
        try:
            trainer.fit(module, batches, ckpt_path=last if start else None, weights_only=True)
        except SystemExit:  # what Lightning makes of an interrupt
            raise KeyboardInterrupt from None
        trainer.save_checkpoint(last)
    return export(recipe, variant, recipe.output / MODEL)


def known_variant(name: str) -> Variant:
    """A row of the table of variants. Raises RecipeError with the known names."""
    if name not in VARIANTS:
        raise RecipeError(f"no variant named {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def build_module(recipe: VAERecipe | TransformerRecipe, variant: Variant) -> VAEModule | TransformerModule:
    """The module that a recipe trains. Fits the codec and trains the vocabulary where the run has none yet."""
    if isinstance(recipe, VAERecipe):
        return VAEModule(recipe, variant, fitted_codec(recipe, variant))
    vocabulary = recipe.output / VOCABULARY
    if recipe.start_from is not None and not vocabulary.exists():
        shutil.copyfile(recipe.start_from / VOCABULARY, vocabulary)
    if not vocabulary.exists():
        train_vocabulary(vocabulary, variant.text_encoder.vocab_size, recipe.data.seed)
    tokenizer, text_tokens = Tokenizer(vocabulary), variant.transformer.text_tokens
    return TransformerModule(recipe, variant, lambda captions: tokenizer.encode(captions, text_tokens))


def build_batches(
    recipe: VAERecipe | TransformerRecipe, variant: Variant, start: int
) -> ShapesBatches | EncodedBatches | CachedBatches:
    """What a run learns from, beginning with batch `start`."""
    if isinstance(recipe, VAERecipe):
        return ShapesBatches(recipe.data, recipe.batch_size, start)
    return (CachedBatches if recipe.cached_clips else EncodedBatches)(recipe, encoder_of(recipe, variant), start)


def fitted_codec(recipe: VAERecipe, variant: Variant) -> LinearCodec:
    """The codec of a VAE run, fitted the first time it is asked for."""
    path = (recipe.start_from or recipe.output) / CODEC
    if not path.exists():
        pixels = read_batch(recipe.data, range(recipe.codec_clips)).pixels
        LinearCodec.fit(pixels, variant.vae.latent_channels).save(path)
    return LinearCodec.load(path)


def _trainer(recipe: VAERecipe | TransformerRecipe, start: int) -> L.Trainer:
    callbacks: list[Callback] = [
        WeightAveraging(avg_fn=warm_average(recipe.ema_decay)),
        ModelCheckpoint(
            dirpath=recipe.output,
            filename="step{step:06d}",
            auto_insert_metric_name=False,
            save_last=True,
            train_time_interval=datetime.timedelta(minutes=recipe.checkpoint_minutes),
            enable_version_counter=False,
        ),
        RichProgressBar(refresh_rate=recipe.log_every),
    ]
    return L.Trainer(
        default_root_dir=recipe.output,
        accelerator="auto",
        devices=1,
        max_steps=recipe.steps,
        precision=recipe.precision,
        gradient_clip_val=recipe.clip_norm,
        log_every_n_steps=recipe.log_every,
        logger=[
            # One folder for each start: the CSV logger would replace what an earlier leg of the run has logged.
            CSVLogger(recipe.output, name="logs", version=f"from{start:06d}"),
            TensorBoardLogger(recipe.output, name="tensorboard", version=""),
        ],
        callbacks=callbacks,
        enable_model_summary=False,
    )
