"""One training step of the transformer: latents and captions to a loss."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from cogworks.config.recipe import TransformerRecipe
from cogworks.config.variants import Variant
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.prediction import add_noise
from cogworks.diffusion.schedule import NoiseSchedule
from cogworks.diffusion.timesteps import draw_timesteps
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.transformer import Transformer
from cogworks.rng import generator_for
from cogworks.training.batches import LatentBatch
from cogworks.training.optim import MuonAndAdamW, trapezoid


class TransformerModule(L.LightningModule):
    """v-prediction with caption dropout; noise and timesteps are keyed by (seed, step, replica).

    Args:
        tokenize: captions -> ids (B, M).
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        variant: Variant,
        tokenize: Callable[[list[str]], Tensor],
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokenize = tokenize
        self.schedule = NoiseSchedule(variant.schedule)
        self.transformer = Transformer(variant.transformer)
        self.text_encoder = TextEncoder(variant.text_encoder)
        self.transformer.initialise(generator_for(recipe.seed, "transformer"))
        self.text_encoder.initialise(generator_for(recipe.seed, "text encoder"))
        self.text_encoder.requires_grad_(recipe.train_text_encoder)

    def training_step(self, batch: LatentBatch, batch_index: int) -> Tensor:
        generator = generator_for(self.recipe.seed, "step", batch.number, self.global_rank)
        x0 = batch.latents
        size, device = len(x0), x0.device
        timesteps = draw_timesteps(
            size, generator, num_timesteps=self.schedule.num_timesteps, power=self.recipe.timestep_power
        )
        noise = torch.randn(x0.shape, generator=generator).to(device)
        dropped = torch.rand(size, generator=generator) < self.recipe.caption_dropout
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        alpha, sigma = self.schedule.levels(timesteps)
        text_emb = self.text_encoder(self.tokenize(captions).to(device))
        v = self.transformer(add_noise(x0, noise, alpha, sigma), timesteps.to(device), text_emb)
        per_sample = diffusion_loss(v, x0, noise, alpha, sigma)
        self._log(per_sample.detach(), timesteps)
        return per_sample.mean()

    def _log(self, per_sample: Tensor, timesteps: Tensor) -> None:
        self.log("loss", per_sample.mean(), prog_bar=True)
        quarter = timesteps * 4 // self.schedule.num_timesteps
        for index in range(4):
            if (quarter == index).any():
                self.log(f"loss/quarter_{index}", per_sample[quarter == index].mean())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        matrices = [p for p in self.transformer.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in chosen]
        optimizer = MuonAndAdamW(matrices, others, self.recipe.matrix_learning_rate, self.recipe.learning_rate)
        schedule = trapezoid(optimizer, self.recipe.steps, self.recipe.warmup_steps, self.recipe.cooldown)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
