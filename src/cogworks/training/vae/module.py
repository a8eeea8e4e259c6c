"""One training step of the VAE: clips or images to a loss.

VAE and discriminator learn in the same step, from the same reconstructions: their losses are added, and neither
reaches the other's weights, so one backward pass serves both, and Lightning counts one step of one optimizer, which
holds a group of weights for each. Accumulation, precision, clipping and resuming work as without a discriminator.

Letters: B batch, T frames, H W pixels, C latent channels, t h w latents.
Source: arXiv:2408.06072, section 2.1 and its appendix; the order of the terms as in arXiv:2112.10752's first stage.
"""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.config.vae_recipe import VAERecipe
from cogworks.errors import RecipeError
from cogworks.models.vae_posterior import Posterior
from cogworks.nn.time_context import Start
from cogworks.rng import derive_seed, generator_for
from cogworks.training.clips.batches import PixelBatch
from cogworks.training.optim import build_optimizer
from cogworks.training.vae.discriminator import Discriminator, judge, judge_both
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.training.vae.losses import (
    adaptive_weight,
    error_decibels,
    hinge_discriminator,
    hinge_generator,
    kl_divergence,
    psnr,
    without_autocast,
)
from cogworks.training.vae.perceptual import Perceptual, build_perceptual
from cogworks.training.vae.start import TrainingVAE, build_vae, lighten
from cogworks.training.vae.views import choose_view

Terms = dict[str, Tensor]


class VAEModule(L.LightningModule):
    """Encoder and decoder together, or the decoder alone; with a codec each first regresses it by itself.

    Everything drawn is keyed by (seed, number of the batch, replica). What is trained is registered: `vae` and
    `discriminator`. What only helps is in `frozen`, so that no checkpoint, average or gradient bucket holds it.

    Args:
        model: what to train; None builds what the recipe says.
    """

    def __init__(self, recipe: VAERecipe, model: TrainingVAE | None = None) -> None:
        super().__init__()
        model = model or build_vae(recipe)
        self.recipe = recipe
        self.variant = model.variant
        self.codec = model.codec
        self.vae = model.vae
        self.vae.encoder.requires_grad_(recipe.train_encoder)
        lighten(self.vae, compiled=recipe.compile, checkpointed=recipe.activation_checkpointing)
        self.discriminator = _new_discriminator(recipe, model.variant.vae.image_channels)
        perceptual = None if recipe.perceptual is None else build_perceptual(recipe.perceptual)
        self.frozen: tuple[Perceptual, ...] = () if perceptual is None else (perceptual,)

    def on_fit_start(self) -> None:
        for network in self.frozen:
            network.to(self.device)
        if self.codec is not None:
            self.codec = LinearCodec({name: tensor.to(self.device) for name, tensor in self.codec.tensors.items()})

    def training_step(self, batch: PixelBatch, batch_index: int) -> Tensor:
        loss, terms = self.losses(batch, self.global_step, self.global_rank)
        shown = {name: value.detach() for name, value in terms.items()}
        self.log_dict(shown, prog_bar=True, batch_size=len(batch.pixels))
        return loss

    def losses(self, batch: PixelBatch, step: int, replica: int = 0) -> tuple[Tensor, Terms]:
        """What is differentiated, and what is shown, of one replica's batch at a step of the optimizer.

        What is shown as `loss` leaves out what the discriminator says, so that it means the same before and after
        `start_step`.
        """
        draws = generator_for(self.recipe.seed, "step", batch.number, replica)
        pixels = choose_view(self.recipe, batch, step / self.recipe.steps, draws)
        posterior, decoded, target = self._reconstruct(pixels, step, draws)
        likeness = self._likeness(decoded, pixels, draws)
        nll = torch.stack([weight * value for weight, value in likeness.values()]).sum()
        kl = kl_divergence(posterior, self.recipe.kl)
        loss = nll + self.recipe.kl_weight * kl
        terms = {"psnr": psnr(decoded, pixels), "kl": kl, "latent_std": posterior.mean.std()}
        terms |= {name: value for name, (_, value) in likeness.items()}
        if target is not None:
            distance = F.mse_loss(posterior.mean, target)
            loss = loss + self._codec_weight(step) * distance
            terms["codec_distance"] = distance
        terms = {"loss": loss, **terms}
        if self.discriminator is not None:
            adversarial, seen = self._adversarial(self.discriminator, nll, decoded, pixels, step)
            loss, terms = loss + adversarial, terms | seen
        return loss, terms

    def _reconstruct(
        self, pixels: Tensor, step: int, draws: torch.Generator
    ) -> tuple[Posterior, Tensor, Tensor | None]:
        """The posterior, the decoded clip (B, 3, T, H, W), and the codec's latents where there is a codec.

        Raises:
            RecipeError: the clip would not come back with as many frames.
        """
        frames, double = pixels.shape[2], 2 * self.variant.vae.temporal_stride
        if frames % double > 1:
            raise RecipeError(
                f"clips of {frames} frames do not come back from a VAE with as many: take 1, {double}k or {double}k + 1"
            )
        posterior = Posterior.from_moments(self.vae.encoder(pixels, Start()).float())
        target = None
        if self.codec is not None:
            with without_autocast(pixels):
                target = self.codec.encode(pixels)
        latents = target if target is not None and not self._joint(step) else posterior.sample(draws)
        if self.recipe.latent_noise > 0:
            level = self.recipe.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, generator=draws)
            latents = latents + (level * torch.randn(latents.shape, generator=draws)).to(latents)
        return posterior, self.vae.decoder(latents, Start()).float(), target

    def _likeness(self, decoded: Tensor, pixels: Tensor, draws: torch.Generator) -> dict[str, tuple[float, Tensor]]:
        """Each measure of how unlike the decoded clip is, with its weight."""
        terms = {"absolute": (1.0, F.l1_loss(decoded, pixels))}
        if self.recipe.squared_weight > 0:
            terms["squared"] = (self.recipe.squared_weight, F.mse_loss(decoded, pixels))
        if self.recipe.decibel_weight > 0:
            terms["decibels"] = (self.recipe.decibel_weight, error_decibels(decoded, pixels))
        options = self.recipe.perceptual
        if options is not None:
            frames = [clip.transpose(1, 2) for clip in (decoded, pixels)]  # (B, T, 3, H, W)
            if options.frames == "one":
                samples = torch.arange(len(pixels))
                chosen = torch.randint(pixels.shape[2], (len(pixels),), generator=draws)
                pair = [clip[samples, chosen] for clip in frames]
            else:
                pair = [clip.flatten(0, 1) for clip in frames]
            terms["perceptual"] = (options.weight, self.frozen[0](*pair).mean())
        return terms

    def _adversarial(
        self, discriminator: Discriminator, nll: Tensor, decoded: Tensor, pixels: Tensor, step: int
    ) -> tuple[Tensor, Terms]:
        """What VAE and discriminator learn from each other, together; nothing before `start_step`."""
        options = self.recipe.discriminator
        assert options is not None  # there is a discriminator
        if step < options.start_step:
            return _untouched(discriminator), {}
        deceived = hinge_generator(judge(discriminator, decoded))
        factor = deceived.new_ones(())
        if options.adaptive:
            factor = adaptive_weight(nll, deceived, self.vae.decoder.conv_out.weight, scale=decoded.numel() ** 0.5)
        real, fake = judge_both(discriminator, pixels, decoded)
        told = hinge_discriminator(real, fake)
        terms = {"adversarial": deceived, "adaptive_weight": factor, "discriminator": told}
        terms |= {"logits_real": real.float().mean(), "logits_fake": fake.float().mean()}
        return options.weight * factor * deceived + told, terms

    def _joint(self, step: int) -> bool:
        options = self.recipe.codec
        return options is None or step / self.recipe.steps >= options.joint_from

    def _codec_weight(self, step: int) -> float:
        assert self.recipe.codec is not None  # there is a codec
        return self.recipe.codec.weight if self._joint(step) else 1.0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before its time the discriminator has gradients of zero at most; its moments must not count those steps."""
        options = self.recipe.discriminator
        if self.discriminator is not None and options is not None and self.global_step < options.start_step:
            self.discriminator.zero_grad(set_to_none=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip VAE and discriminator each by its own norm: neither may shrink the other's steps."""
        if gradient_clip_val:
            for network in (self.vae, self.discriminator):
                if network is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        options = self.recipe.discriminator
        if self.discriminator is None or options is None:
            return build_optimizer(self.recipe, self.vae)
        rate = options.learning_rate or self.recipe.optimizer.learning_rate
        group = {"params": list(self.discriminator.parameters()), "lr": rate, "betas": options.betas}
        return build_optimizer(self.recipe, self.vae, beside=group)


def _new_discriminator(recipe: VAERecipe, channels: int) -> Discriminator | None:
    options = recipe.discriminator
    if options is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "discriminator"))
        return Discriminator(channels, options.width, options.stages, options.time_stages)


def _untouched(discriminator: Discriminator) -> Tensor:
    """Zero, that depends on every weight: processes that share gradients wait for those of all weights."""
    return torch.stack([parameter.sum() for parameter in discriminator.parameters()]).sum() * 0.0
