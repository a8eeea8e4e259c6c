"""One training step of the VAE: clips to a loss.

Letters: B batch, T frames, H W pixels, C latent channels, t h w latents.
"""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F

from cogworks.config.recipe import VAERecipe
from cogworks.config.variants import Variant
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior
from cogworks.nn.time_context import Start
from cogworks.rng import generator_for
from cogworks.training.batches import Batch
from cogworks.training.linear_codec import LinearCodec
from cogworks.training.optim import trapezoid

INITIAL_LOGVAR = -6.0  # the posterior begins narrow: its noise must not drown the first latents


class VAEModule(L.LightningModule):
    """First each half regresses the linear codec, then both train together, held near it; or the decoder alone.

    Crops, noise and posterior samples are keyed by (seed, step, replica).
    """

    def __init__(self, recipe: VAERecipe, variant: Variant, codec: LinearCodec) -> None:
        super().__init__()
        self.recipe = recipe
        self.codec = codec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.vae = VAE(variant.vae)
        channels = variant.vae.latent_channels
        with torch.no_grad():
            self.vae.encoder.conv_out.bias[channels:] = INITIAL_LOGVAR
            self.vae.encoder.conv_out.weight[channels:].mul_(0.1)
        self.vae.encoder.requires_grad_(recipe.train_encoder)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        generator = generator_for(self.recipe.seed, "step", batch.number, self.global_rank)
        progress = batch.number / self.recipe.steps
        pixels = self._crop(batch.pixels, generator, whole=progress >= self.recipe.full_size_from)
        target = self.codec.encode(pixels)
        posterior = Posterior.from_moments(self.vae.encoder(pixels, Start()))
        distance = F.mse_loss(posterior.mean, target)
        latents = target if progress < self.recipe.joint_from else posterior.sample(generator)
        level = self.recipe.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
        noise = (level * torch.randn(latents.shape, generator=generator)).to(latents)
        decoded = self.vae.decoder(latents + noise, Start())
        absolute, squared = F.l1_loss(decoded, pixels), F.mse_loss(decoded, pixels)
        kl = posterior.kl() / posterior.mean[0].numel()
        codec_weight = 1.0 if progress < self.recipe.joint_from else self.recipe.codec_weight
        loss = absolute + self.recipe.squared_weight * squared + codec_weight * distance + self.recipe.kl_weight * kl
        psnr = 10 * torch.log10(4 / (decoded.detach() - pixels).square().mean((1, 2, 3, 4))).mean()
        self.log_dict({"loss": loss, "psnr": psnr, "codec_distance": distance, "kl": kl}, prog_bar=True)
        return loss

    def _crop(self, pixels: Tensor, generator: torch.Generator, *, whole: bool) -> Tensor:
        """Nine frames, say, of a corner drawn near the middle; `whole` keeps height and width, and fewer samples."""
        size = pixels.shape[-1] if whole else self.recipe.crop_size
        if whole:
            pixels = pixels[: self.recipe.full_batch_size]
        room = torch.tensor([pixels.shape[2] - self.recipe.crop_frames, *(n - size for n in pixels.shape[3:])])
        spread = torch.rand(len(pixels), 3, 2, generator=generator).mean(-1)  # triangular: the middle most often
        corners = (spread * (room + 1)).long().clamp(max=room).tolist()
        return torch.stack(
            [
                clip[:, t : t + self.recipe.crop_frames, y : y + size, x : x + size]
                for clip, (t, y, x) in zip(pixels, corners, strict=True)
            ]
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        schedule = trapezoid(optimizer, self.recipe.steps, self.recipe.warmup_steps, self.recipe.cooldown)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
