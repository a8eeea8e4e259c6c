"""Training recipes: typed YAML, where an unknown key is an error that names the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cogworks.config.validation import explain
from cogworks.errors import RecipeError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShapesData(_Strict):
    """Clips of the Shapes world, drawn without end. Sizes in pixels."""

    seed: int = 0
    size: int = 64
    frames: int = 17
    fps: float = 8.0


class _Recipe(_Strict):
    """What every run has.

    With `start_from`, another run, training begins at that run's averaged weights instead of from nothing.
    Learning rates rise over `warmup_steps`, stay, and fall linearly to zero over the last `cooldown` of the run.
    """

    version: Literal[1]
    variant: str
    output: Path
    start_from: Path | None = None
    seed: int
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0, default=100)
    cooldown: float = Field(ge=0, le=1, default=0.3)
    ema_decay: float = Field(gt=0, lt=1, default=0.998)
    clip_norm: float = Field(gt=0, default=1.0)
    checkpoint_minutes: float = Field(gt=0, default=5.0)
    log_every: int = Field(gt=0, default=20)
    threads: int = Field(gt=0, default=2)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    data: ShapesData


class VAERecipe(_Recipe):
    """Train a VAE, starting from the closed-form linear codec (docs/bundled-models.md).

    Attributes:
        codec_clips: clips that the codec's principal components are found on.
        joint_from: share of the run after which encoder and decoder train together; before it each regresses alone.
        full_size_from: share of the run after which whole clips replace crops.
        crop_size, crop_frames: pixels and frames of a crop.
        full_batch_size: batch size of whole clips.
        train_encoder: false trains the decoder alone, for a fixed latent space.
        latent_noise: largest standard deviation of the noise that the decoder learns to bear.
        squared_weight: weight of the squared error, beside an absolute error of weight one.
        codec_weight: weight of the squared distance between the encoder's latents and the codec's.
        kl_weight: weight of the posterior's KL divergence from the unit Gaussian, a mean over elements.
    """

    kind: Literal["vae"]
    codec_clips: int = 700
    joint_from: float = Field(ge=0, le=1)
    full_size_from: float = Field(ge=0, le=1)
    crop_size: int
    crop_frames: int
    full_batch_size: int = Field(gt=0)
    train_encoder: bool = True
    latent_noise: float = Field(ge=0)
    squared_weight: float = Field(ge=0)
    codec_weight: float = Field(ge=0)
    kl_weight: float = Field(ge=0)


class TransformerRecipe(_Recipe):
    """Train a transformer and, in small recipes, its text encoder.

    Attributes:
        latents: what makes the latents: the linear codec of a VAE run, or that run's encoder.
        cached_clips: encode this many clips once and learn from them alone; 0 draws new clips for every batch.
        vae: folder of the VAE run.
        matrix_learning_rate: of Muon, which trains the matrices of the blocks; AdamW trains the rest.
        timestep_power: timesteps are T u^power with u uniform; below 1 favours high noise.
        caption_dropout: share of samples that get the empty caption.
    """

    kind: Literal["transformer"]
    vae: Path
    latents: Literal["codec", "encoder"]
    cached_clips: int = Field(ge=0, default=0)
    matrix_learning_rate: float = Field(gt=0)
    timestep_power: float = Field(gt=0)
    caption_dropout: float = Field(ge=0, le=1)
    train_text_encoder: bool

    @model_validator(mode="after")
    def _enough_clips(self) -> Self:
        if 0 < self.cached_clips < self.batch_size:
            raise ValueError(
                f"cached_clips must be 0 or at least batch_size, {self.batch_size}; got {self.cached_clips}"
            )
        return self


_KINDS: dict[str, type[VAERecipe] | type[TransformerRecipe]] = {"vae": VAERecipe, "transformer": TransformerRecipe}


def load_recipe(path: Path, overrides: list[str]) -> VAERecipe | TransformerRecipe:
    """Read a recipe and apply `key=value` overrides (`data.size=96` reaches nested keys).

    Raises:
        RecipeError: unreadable file, unknown key (with the nearest known one) or a value out of range.
    """
    if not path.is_file():  # a device would be read without end
        raise RecipeError(f"no recipe at {path}; the bundled ones are in the recipes folder")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text in UTF-8, and a recipe is") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a ValueError
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, got {type(values).__name__}")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"an override must look like key=value, got {override!r}")
        _set(values, key.split("."), yaml.safe_load(value))
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], name: str) -> VAERecipe | TransformerRecipe:
    """Validate recipe values; `name` is what error messages call them."""
    kind = _KINDS.get(str(values.get("kind")))
    if kind is None:
        raise RecipeError(f"{name}: kind must be one of {', '.join(_KINDS)}, got {values.get('kind')!r}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        in_data = "data" in error.errors(include_url=False)[0]["loc"]
        known = list((ShapesData if in_data else kind).model_fields)
        raise RecipeError(f"{name}: {explain(error, known)}") from None


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{'.'.join(keys)} does not exist: {key} is a plain value")
    values[keys[-1]] = value
