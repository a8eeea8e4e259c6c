"""Recipes that train a transformer: all of it, or a LoRA beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cogworks.config.strict import Strict
from cogworks.config.training import Run


class LoRAOptions(Strict):
    """Train low-rank factors beside linears that stay as they are (`extensions.lora.LoRA`).

    Attributes:
        rank, alpha, dropout: of every factor pair; the LoRA acts with alpha / rank.
        targets: path patterns of linears, `PATTERN:ROWS` for row blocks; one that matches nothing is an error.
        start_from: a LoRA file whose factors to begin with; rank, alpha and targets are then its own.
        base_dtype: of the weights that stay as they are; None keeps those of the model. int8 holds the linears of the
            blocks in 8 bits, a scale for each row.
    """

    rank: int = Field(default=64, gt=0)
    alpha: float | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("blocks.*.attention.qkv", "blocks.*.attention.out"), min_length=1)
    start_from: Path | None = None
    base_dtype: Literal["float32", "bfloat16", "int8"] | None = None


class TimestepOptions(Strict):
    """Which noise levels a step learns from.

    Attributes:
        power: timesteps are T u^power with u uniform; below 1 favours high noise.
        draw: `spread` gives every sample of a step, over all devices, its own stretch of the timesteps, of equal
            probability (parallel uniform sampling); `sat_v10` and `sat_head` give every device one as SAT's trainers
            do; `independent` draws each sample for itself.
        log_mean, log_std: of the noise's standard deviation, whose logarithm is normal; for EDM alone.
    """

    power: float = Field(default=1.0, gt=0)
    draw: Literal["spread", "independent", "sat_v10", "sat_head"] = "spread"
    log_mean: float = -1.2
    log_std: float = Field(default=1.2, gt=0)


class LossOptions(Strict):
    """What a step learns: the plain error of what the network predicts, unless nearly clean samples are held back.

    Attributes:
        min_snr: the highest weight of an x_0 error, SAT's `min_snr_value`: the weight of v, 1 + SNR, becomes
            min(1 + SNR, min_snr). The gamma of the min-SNR paper is one less. None sets no limit.
        offset_noise: standard deviation of a constant that is added to the noise of a whole sample.
    """

    min_snr: float | None = Field(default=None, gt=0)
    offset_noise: float = Field(default=0.0, ge=0)


class ImageConditionOptions(Strict):
    """How the first frame is disturbed that an image-to-video model sees.

    Attributes:
        noise_mean, noise_std: of the logarithm of the noise's standard deviation, in pixels from -1 to 1.
        dropout: share of samples that see no image.
    """

    noise_mean: float = -3.0
    noise_std: float = Field(default=0.5, ge=0)
    dropout: float = Field(default=0.05, ge=0, le=1)


class TransformerRecipe(Run):
    """Train a transformer, and in small recipes its text encoder.

    Attributes:
        model: what to begin with: a bundled name, a hub id or a folder; None begins from nothing.
        variant: row of the table of variants to build from nothing; not beside `model`.
        add_image_input: make an image-to-video model of a text-to-video one: the image's latents become further input
            channels, whose weights begin at zero.
        vae: model whose VAE makes the latents, if not `model`.
        codec: a linear codec (the file that a VAE run begins with) that makes the latents in place of an encoder.
        posterior: latents are drawn from what the encoder gives, or its most likely ones.
        text_encoder: model whose text encoder and tokenizer to use, if not those of `model`. From nothing and without
            it, both are trained along.
        train_text_encoder: train the text encoder too.
        prepared: folder of latents that are made once (`cogworks data prepare`), and of prompt embeddings too unless
            the text encoder is trained; what is missing there is made when the run begins. None encodes every batch
            when it comes.
        clips: of the Shapes world: see so many clips again and again, instead of new ones without end.
        caption_dropout: share of samples that learn what guidance subtracts (`Variant.unconditional`).
        prediction: of the network, from nothing: v, or the preconditioned form of EDM.
    """

    kind: Literal["transformer"]
    model: str | None = None
    variant: str | None = None
    add_image_input: bool = False
    vae: str | None = None
    codec: Path | None = None
    posterior: Literal["sample", "mode"] = "sample"
    text_encoder: str | None = None
    train_text_encoder: bool = False
    prepared: Path | None = None
    clips: int | None = Field(default=None, gt=0)
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    prediction: Literal["v", "edm"] = "v"
    timesteps: TimestepOptions = TimestepOptions()
    loss: LossOptions = LossOptions()
    image: ImageConditionOptions = ImageConditionOptions()
    lora: LoRAOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) == (self.variant is None):
            raise ValueError("a recipe names either the model to begin with or the variant to build from nothing")
        if self.model is None and self.lora is not None:
            raise ValueError("a LoRA needs a model to begin with: name it under model")
        if self.add_image_input and (self.model is None or self.lora is not None):
            raise ValueError(
                "add_image_input needs a model to begin with, named under model, and all of it trained: no lora"
            )
        if self.model is None and self.vae is None:
            raise ValueError("from nothing, name under vae the model whose VAE makes the latents")
        if self.clips is not None and self.data.kind != "shapes":
            raise ValueError("clips counts those of the Shapes world; files are as many as they are")
        if self.prepared is not None and self.data.kind == "shapes" and self.clips is None:
            raise ValueError("prepared needs a number of clips to prepare: set clips")
        if self.model is not None and self.prediction != "v":
            raise ValueError("prediction is a choice from nothing; a model has its own")
        if self.lora is not None and self.train_text_encoder:
            raise ValueError("a LoRA leaves the text encoder as it is: set train_text_encoder to false")
        if self.lora is not None and self.average is not None:
            raise ValueError("a LoRA has no average of weights: leave average out")
        return self
