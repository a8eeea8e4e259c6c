"""One training step of the transformer: a batch to a loss.

Letters: B samples, C latent channels, T frames, H W pixels, t h w latents, M text tokens, D text width.
Sources: CogVideoX, arXiv:2408.06072, sections 2 and 3; SAT's loss and its image-to-video conditioning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.diffusion.edm import EDMSchedule, noise_schedule
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.noise import offset_noise
from cogworks.diffusion.prediction import add_noise, network_input
from cogworks.diffusion.timesteps import draw_positions
from cogworks.errors import RecipeError
from cogworks.extensions.attach import attach
from cogworks.extensions.checkpointing import ActivationCheckpointing
from cogworks.extensions.int8 import quantize_linears
from cogworks.extensions.lora import LoRA, StoredLoRA
from cogworks.rng import derive_seed, generator_for
from cogworks.training.clips.batches import ClipBatch
from cogworks.training.optim import build_optimizer
from cogworks.training.transformer.encode import ClipEncoder
from cogworks.training.transformer.start import TrainingModel
from cogworks.training.watching.predict import Asked, Prediction, predict
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_fit import check_fit

LORA_NAME = "default"
RECENT = 1000  # batches whose losses are kept until they are logged
OFS = 2.0  # the second input of 1.5-I2V, in all published use


class TransformerModule(L.LightningModule):
    """Noise, timesteps and all else that is drawn is keyed by (seed, number of the batch, replica).

    What is trained is registered: `transformer`, and `text_encoder` where it learns too. What only helps is in
    `frozen`, so that no checkpoint, average or gradient bucket holds it.

    Attributes:
        recent: (B,) losses and (B,) positions of the last batches, for `watch.Vitals`, which takes them out.
    """

    def __init__(self, recipe: TransformerRecipe, model: TrainingModel) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = model
        self.schedule = noise_schedule(model.variant.schedule)
        self.transformer = model.transformer
        for network in self.frozen:
            network.eval()
        if recipe.train_text_encoder:
            assert model.text_encoder is not None
            self.text_encoder = model.text_encoder.train()
        self.encoder = ClipEncoder(recipe, model)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=RECENT)
        if recipe.lora is not None:
            self.transformer.requires_grad_(False)
            if recipe.lora.base_dtype == "int8":
                quantize_linears(self.transformer)
            attach(self.transformer, self._lora())
        if recipe.activation_checkpointing:
            attach(self.transformer, ActivationCheckpointing())
        if recipe.compile:
            for block in self.transformer.blocks:
                block.compile()

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """The networks that only help."""
        text_encoder = None if self.recipe.train_text_encoder else self.model.text_encoder
        return tuple(network for network in (self.model.vae, text_encoder) if network is not None)

    def _lora(self) -> LoRA | StoredLoRA:
        options = self.recipe.lora
        assert options is not None
        if options.start_from is None:
            return LoRA(
                options.rank,
                options.alpha,
                options.targets,
                dropout=options.dropout,
                name=LORA_NAME,
                seed=self.recipe.seed,
            )
        file = read_lora(options.start_from)
        check_fit(file, self.transformer.config)
        return StoredLoRA(file.pairs, name=LORA_NAME, dropout=options.dropout, trainable=True)

    def on_fit_start(self) -> None:
        for network in self.frozen:
            network.to(self.device)

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        # The dropout of a LoRA draws from torch's global generator.
        torch.manual_seed(derive_seed(self.recipe.seed, "dropout", batch.number, self.global_rank))

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        per_sample, positions = self.losses(batch, self.global_rank, self.trainer.world_size)
        self._log(per_sample.detach(), positions)
        return per_sample.mean()

    def losses(self, batch: ClipBatch, replica: int = 0, replicas: int = 1) -> tuple[Tensor, Tensor]:
        """(B,) float32 losses of a replica's batch, and the (B,) positions in [0, 1] of their noise levels."""
        variant, device = self.model.variant, self.device
        keyed = partial(generator_for, self.recipe.seed)
        generator = keyed("step", batch.number, replica)
        x0 = self.encoder.latents(batch, keyed("posterior", batch.number, replica), device)
        positions = self._positions(len(x0), generator, batch.number, replica, replicas)
        timesteps = self._timesteps_at(positions)
        alpha, sigma = self.schedule.levels(timesteps)
        noise = offset_noise(
            torch.randn(x0.shape, generator=generator),
            self.recipe.loss.offset_noise,
            keyed("offset", batch.number, replica),
        ).to(device)
        dropped = torch.rand(len(x0), generator=generator) < self.recipe.caption_dropout
        kind = variant.schedule.prediction
        shown = network_input(add_noise(x0, noise, alpha, sigma), kind, alpha, sigma)
        if variant.takes_image:
            image = self.encoder.image_condition(batch, keyed("image", batch.number, replica), x0)
            shown = torch.cat([shown, image], dim=1)
        predicted = self.transformer(
            shown.to(self.transformer.norm_final.weight.dtype),
            timesteps.to(device),
            self.encoder.text(batch, dropped, device),
            None if self.transformer.ofs_embed is None else torch.full((len(x0),), OFS, device=device),
        )
        loss = diffusion_loss(predicted, x0, noise, alpha, sigma, kind=kind, min_snr=self.recipe.loss.min_snr)
        return loss, positions

    def _positions(self, size: int, generator: torch.Generator, number: int, replica: int, replicas: int) -> Tensor:
        """Noise levels of a batch, spread with those of the other replicas and of the other parts of its step."""
        options, parts = self.recipe.timesteps, self.recipe.accumulate
        step, part = divmod(number, parts)
        together = replicas * parts
        return draw_positions(
            size,
            generator,
            draw=options.draw,
            power=options.power,
            replica=replica * parts + part if options.draw == "spread" else replica,
            replicas=together if options.draw == "spread" else replicas,
            shared_generator=None if together == 1 else generator_for(self.recipe.seed, "stretches", step),
        )

    def _timesteps_at(self, positions: Tensor) -> Tensor:
        if isinstance(self.schedule, EDMSchedule):
            options = self.recipe.timesteps
            return self.schedule.timesteps_at(positions, log_mean=options.log_mean, log_std=options.log_std)
        return self.schedule.timesteps_at(positions)

    def predict_step(self, asked: Asked, index: int) -> Prediction:
        """The video of a request, for `trainer.predict`."""
        return predict(self, asked)

    def _log(self, per_sample: Tensor, positions: Tensor) -> None:
        self.log("loss", per_sample.mean(), prog_bar=True, batch_size=len(per_sample))
        self.recent.append((per_sample, positions))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return build_optimizer(self.recipe, self, [self.transformer.blocks])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what does not change: a checkpoint of a LoRA holds no base."""
        checkpoint["state_dict"] = {
            key: tensor for key, tensor in checkpoint["state_dict"].items() if key in self._trained_keys()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As a network does, but what is frozen may be missing."""
        missing = self._trained_keys() - state_dict.keys()
        if missing:
            raise RecipeError(
                f"the checkpoint holds another model or other LoRA targets: it lacks {sorted(missing)[0]} "
                f"and {len(missing) - 1} more"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def _trained_keys(self) -> set[str]:
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return set(self.state_dict()) - {name.replace("inner.", "") for name in frozen}
