"""Recipes that train a VAE: encoder and decoder together, or the decoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cogworks.config.strict import Strict
from cogworks.config.training import Run


class CodecOptions(Strict):
    """Begin at a closed-form linear codec, fitted to the Shapes world (docs/bundled-models.md).

    Attributes:
        clips: that the codec's principal components are found on.
        joint_from: share of the run after which encoder and decoder train together; before it each regresses alone.
        weight: of the squared distance between the encoder's latents and the codec's, from then on.
    """

    clips: int = Field(default=700, gt=0)
    joint_from: float = Field(default=0.0, ge=0, le=1)
    weight: float = Field(default=0.0, ge=0)


class CropOptions(Strict):
    """Learn from parts of clips.

    Attributes:
        size: height and width in pixels, of a part drawn near the middle.
        frames: of every part, and of whole pictures too.
        until: share of the run after which whole pictures replace parts of them.
        whole_batch_size: samples of a batch that are kept from then on; None keeps all.
    """

    size: int = Field(gt=0)
    frames: int = Field(gt=0)
    until: float = Field(default=1.0, ge=0, le=1)
    whole_batch_size: int | None = Field(default=None, gt=0)


class ImageOptions(Strict):
    """Learn from images too: single frames of the clips.

    Attributes:
        share: of batches that hold images; all samples of a batch are images, or none.
        frame: which one of each clip.
    """

    share: float = Field(gt=0, le=1)
    frame: Literal["first", "random"] = "random"


class PerceptualOptions(Strict):
    """Compare pictures by the features that a fixed network finds in them.

    With `vgg` this is LPIPS 0.1. Without it the features are those of fixed oriented filters at four scales, which
    need no file; the two are not comparable in size.

    Attributes:
        weight: of the distance, beside an absolute error of weight one.
        vgg: weights of VGG16 as torchvision writes them (`features.0.weight`, ...), as .pth or .safetensors.
        heads: weights of LPIPS's linear heads (`lin0.model.1.weight`, ...); None where `vgg` holds them too.
        frames: compare one frame of each clip, drawn anew in every step, or all of them.
    """

    weight: float = Field(default=1.0, gt=0)
    vgg: Path | None = None
    heads: Path | None = None
    frames: Literal["one", "all"] = "one"

    @model_validator(mode="after")
    def _heads_have_features(self) -> Self:
        if self.heads is not None and self.vgg is None:
            raise ValueError("perceptual.heads belongs to VGG16: name its weights under perceptual.vgg")
        return self


class DiscriminatorOptions(Strict):
    """A second network learns to tell clips from their reconstructions, and the VAE to deceive it.

    Attributes:
        start_step: step from which both learn from one another; the discriminator is not computed before.
        weight: of what the VAE learns from it.
        adaptive: multiply `weight` by what makes both gradients equal at the decoder's last layer.
        learning_rate: of the discriminator; None takes that of the VAE. It follows the same schedule.
        betas: of its AdamW.
        width: channels of its first stage; each next one has twice as many, up to 512.
        stages: how often it halves height and width.
        time_stages: how often it halves the frames too, from the first stage on.
    """

    start_step: int = Field(ge=0)
    weight: float = Field(default=0.5, gt=0)
    adaptive: bool = True
    learning_rate: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)
    width: int = Field(default=64, gt=0)
    stages: int = Field(default=3, gt=0)
    time_stages: int = Field(default=2, ge=0)

    @model_validator(mode="after")
    def _time_within_space(self) -> Self:
        if self.time_stages > self.stages:
            raise ValueError(
                f"discriminator.time_stages must be at most discriminator.stages, {self.stages}; got {self.time_stages}"
            )
        return self


class VAERecipe(Run):
    """Train a VAE. The error of a reconstruction is its mean absolute error, and what is asked for besides.

    Attributes:
        model: what to begin with: a bundled name, a hub id or a folder; None begins from nothing.
        variant: row of the table of variants to build from nothing; not beside `model`.
        train_encoder: false trains the decoder alone, for a fixed latent space.
        latent_noise: largest standard deviation of the noise that the decoder learns to bear.
        squared_weight: of the mean squared error.
        decibel_weight: of each clip's mean squared error in decibels: what counts is by which ratio it changes, so that
            clips that come back well are made better too.
        kl_weight: of the posterior's KL divergence from the unit Gaussian.
        kl: that divergence is the sum over the latents of a sample, as the published trainers have it, or their mean.
        perceptual, discriminator: further errors.
        images: mix in images.
        codec: begin at a linear codec; None trains encoder and decoder together from the start.
        crops: learn from parts of clips; None takes clips as they come.
    """

    kind: Literal["vae"]
    model: str | None = None
    variant: str | None = None
    train_encoder: bool = True
    latent_noise: float = Field(default=0.0, ge=0)
    squared_weight: float = Field(default=0.0, ge=0)
    decibel_weight: float = Field(default=0.0, ge=0)
    kl_weight: float = Field(default=1e-6, ge=0)
    kl: Literal["sum", "mean"] = "sum"
    perceptual: PerceptualOptions | None = None
    discriminator: DiscriminatorOptions | None = None
    images: ImageOptions | None = None
    codec: CodecOptions | None = None
    crops: CropOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) == (self.variant is None):
            raise ValueError("a recipe names either the model to begin with or the variant to build from nothing")
        if self.codec is not None and self.data.kind != "shapes":
            raise ValueError("the linear codec is fitted to the Shapes world: leave codec out for clips from files")
        if self.optimizer.kind == "muon":
            raise ValueError("optimizer.kind muon is for the matrices of a transformer; a VAE takes adamw")
        if self.precision == "bf16-true":
            raise ValueError("precision bf16-true loses most steps of a VAE; use bf16-mixed")
        if self.samples is not None:
            raise ValueError("samples shows what a transformer makes of prompts; leave it out for a VAE")
        return self
