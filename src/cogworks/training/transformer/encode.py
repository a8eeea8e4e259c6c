"""Clips, images and captions to what a transformer learns from.

Letters: B samples, C latent channels, T frames, H W pixels, t h w latents, M text tokens, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import RecipeError
from cogworks.models.vae import VAE
from cogworks.training.clips.batches import ClipBatch, LatentBatch, PixelBatch
from cogworks.training.transformer.start import TrainingModel
from cogworks.training.vae.linear_codec import LinearCodec


class ClipEncoder:
    """The frozen side of a training step: VAE or codec, text encoder, image conditioning."""

    def __init__(self, recipe: TransformerRecipe, model: TrainingModel) -> None:
        self.recipe = recipe
        self.model = model

    @torch.no_grad()
    def latents(self, batch: ClipBatch, generator: torch.Generator, device: torch.device) -> Tensor:
        """(B, C, t, h, w) float32 latents of the diffusion process, t a multiple of the transformer's temporal patch.

        Where it is not, the first latent frame is repeated in front, as the published trainers do.
        """
        latents = batch.latents if isinstance(batch, LatentBatch) else self.encode(batch.pixels.to(device), generator)
        latents = latents.to(device, torch.float32)
        missing = -latents.shape[2] % self.model.variant.transformer.patch_size[0]
        return torch.cat([latents[:, :, :1]] * missing + [latents], dim=2)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, C, t, h, w) latents of the diffusion process."""
        return encode_clips(pixels, generator, self.recipe, self._vae if self.model.codec is None else self.model.codec)

    @torch.no_grad()
    def image_condition(self, batch: ClipBatch, generator: torch.Generator, x0: Tensor) -> Tensor:
        """(B, C, t, h, w): the latents of each noisy first frame, then zeros; all zeros where the image is dropped.

        Source: SAT, `noised_image_input`; the noise's standard deviation is log-normal and drawn for each sample.
        """
        options = self.recipe.image
        images = batch.images
        if images is None:
            assert isinstance(batch, PixelBatch)
            images = batch.pixels[:, :, 0]
        size = len(images)
        std = torch.exp(options.noise_mean + options.noise_std * torch.randn(size, 1, 1, 1, generator=generator))
        noisy = images.to(x0.device) + (std * torch.randn(images.shape, generator=generator)).to(x0.device)
        kept = torch.rand(size, generator=generator) >= options.dropout
        vae = self._vae
        posterior = vae.encode(noisy[:, :, None].to(vae.decoder.conv_out.weight.dtype))
        first = vae.image_condition(posterior.sample(generator)) * kept.to(x0.device)[:, None, None, None, None]
        return torch.cat([first.to(x0.dtype), torch.zeros_like(x0[:, :, 1:])], dim=2)

    def text(self, batch: ClipBatch, dropped: Tensor, device: torch.device) -> Tensor:
        """(B, M, D) embeddings of the captions, or what guidance subtracts where `dropped` (B,) says so."""
        if isinstance(batch, LatentBatch) and batch.text_emb is not None:
            assert batch.empty_emb is not None
            dtype = self.model.transformer.norm_final.weight.dtype
            embedded, empty = batch.text_emb.to(device, dtype), batch.empty_emb.to(device, dtype)
            return torch.where(dropped.to(device)[:, None, None], 0.0 if self._drops_to_zeros else empty, embedded)
        if self._drops_to_zeros:
            return torch.where(dropped.to(device)[:, None, None], 0.0, self._embed(batch.captions, device))
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        return self._embed(captions, device)

    @property
    def _drops_to_zeros(self) -> bool:
        return self.model.variant.unconditional == "zeros"

    def _embed(self, captions: list[str], device: torch.device) -> Tensor:
        encoder = self.model.text_encoder
        assert encoder is not None
        ids = self.model.tokenizer.encode(captions, self.model.variant.transformer.text_tokens).to(device)
        with torch.set_grad_enabled(self.recipe.train_text_encoder and torch.is_grad_enabled()):
            embedded: Tensor = encoder(ids)
        return embedded.to(self.model.transformer.norm_final.weight.dtype)

    @property
    def _vae(self) -> VAE:
        if self.model.vae is None:
            raise RecipeError(f"there is no model at {self.recipe.vae}: train the VAE first")
        return self.model.vae


@torch.no_grad()
def encode_clips(
    pixels: Tensor, generator: torch.Generator, recipe: TransformerRecipe, encoder: VAE | LinearCodec
) -> Tensor:
    """(B, 3, T, H, W) in [-1, 1] -> (B, C, t, h, w) latents of the diffusion process, in the dtype of the encoder.

    Args:
        generator: of the posterior's draw, where the recipe draws.
    """
    if isinstance(encoder, LinearCodec):
        return encoder.encode(pixels)
    posterior = encoder.encode(pixels.to(encoder.decoder.conv_out.weight.dtype))
    return encoder.to_diffusion(posterior.mode() if recipe.posterior == "mode" else posterior.sample(generator))
