"""One training step of a text encoder: captions to a loss.

Letters: B captions, M text tokens, D text width, F kinds of facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.config.text_encoder_recipe import TextEncoderRecipe
from cogworks.config.training_data import ShapesData
from cogworks.config.variants import Variant
from cogworks.errors import WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.rng import generator_for
from cogworks.training.clips.batches import CaptionBatch
from cogworks.training.optim import build_optimizer
from cogworks.training.text_encoder.facts import FACTS, UNKNOWN, CaptionBatches
from cogworks.training.transformer.start import variant_called
from cogworks.training.transformer.vocabulary import learned_tokenizer
from cogworks.weights.load import has_text_encoder, load_text_encoder, load_tokenizer, load_variant
from cogworks.weights.source import resolve


@dataclass(frozen=True)
class TrainingText:
    """A text encoder to train, its tokenizer, and the variant that both are of."""

    variant: Variant
    text_encoder: TextEncoder
    tokenizer: Tokenizer


class TextEncoderModule(L.LightningModule):
    """A linear layer reads each of `FACTS` from every token of an object's phrase; it is not exported.

    Args:
        model: what to train; None builds what the recipe says.
    """

    def __init__(self, recipe: TextEncoderRecipe, model: TrainingText | None = None) -> None:
        super().__init__()
        model = model or build_text(recipe)
        self.recipe = recipe
        self.variant = model.variant
        self.tokenizer = model.tokenizer
        self.text_encoder = model.text_encoder
        self.reader = nn.Linear(model.variant.text_encoder.width, sum(map(len, FACTS.values())))
        nn.init.zeros_(self.reader.weight)
        nn.init.zeros_(self.reader.bias)
        self.frozen: tuple[nn.Module, ...] = ()

    def training_step(self, batch: CaptionBatch, batch_index: int) -> Tensor:
        loss, read = self.losses(batch)
        self.log_dict({"loss": loss.detach(), **read}, prog_bar=True, batch_size=len(batch.ids))
        return loss

    def losses(self, batch: CaptionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the cross entropies of all facts, and the share of tokens from which each is read right."""
        scores = self.reader(self.text_encoder(batch.ids.to(self.device))).split([*map(len, FACTS.values())], dim=-1)
        loss = torch.zeros((), device=self.device)
        read: dict[str, Tensor] = {}
        truths = batch.facts.to(self.device).unbind(-1)
        for name, score, truth in zip(FACTS, scores, truths, strict=True):
            known = truth != UNKNOWN
            said = known.sum().clamp(min=1)  # a small batch may leave a fact unsaid, whose mean would be no number
            entropy = F.cross_entropy(
                score.flatten(0, 1).float(), truth.flatten(), ignore_index=UNKNOWN, reduction="sum"
            )
            loss = loss + entropy / said
            read[f"read/{name}"] = ((score.detach().argmax(-1) == truth) & known).sum() / said
        return loss, read

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return build_optimizer(self.recipe, self, [])


def open_captions(module: TextEncoderModule, replica: int, replicas: int) -> CaptionBatches:
    """What one replica of a run learns from."""
    recipe = module.recipe
    assert isinstance(recipe.data, ShapesData)  # the recipe allows no other
    size, tokens = recipe.batch_size // recipe.accumulate, module.variant.transformer.text_tokens
    return CaptionBatches(recipe.data, module.tokenizer, size, tokens, replica=replica, replicas=replicas)


def build_text(recipe: TextEncoderRecipe) -> TrainingText:
    """What a recipe trains. From nothing, weights are drawn from the seed, and a vocabulary is learned from captions.

    Raises:
        RecipeError: unknown variant.
        WeightsError: the model is not there, or has no text encoder.
    """
    if recipe.model is not None:
        folder = resolve(recipe.model)
        if not has_text_encoder(folder):
            raise WeightsError(f"{folder.path} has no text encoder: name a model that has one")
        variant = load_variant(folder)
        encoder = load_text_encoder(folder, variant, dtype=torch.float32)
        return TrainingText(variant, encoder.train(), load_tokenizer(folder))
    variant = variant_called(cast(str, recipe.variant))
    encoder = TextEncoder(variant.text_encoder)
    encoder.initialise(generator_for(recipe.seed, "text encoder"))
    tokenizer = learned_tokenizer(recipe.output, recipe.data, variant.text_encoder.vocab_size)
    return TrainingText(variant, encoder.train(), tokenizer)
