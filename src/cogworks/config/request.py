"""What is asked of one video: one model for the command line, a line of a batch, an HTTP body and a file's recipe.

Fields have the names of diffusers' arguments; the words of the command line are accepted for them. What is None is the
model's own default. Whether the model can do what is asked is checked where it is run.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cogworks.config.validation import explain
from cogworks.errors import RequestError

Fit = Literal["crop", "pad", "stretch"]
SAMPLERS = ("ddim", "dpm", "dpm_ode", "ddpm")
MAX_SEED = 2**63 - 1


class LoRAUse(BaseModel):
    """An adapter and how strongly it acts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0


def _also(*names: str, **options: Any) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names), **options)


class GenerationRequest(BaseModel):
    """One video.

    Attributes:
        prompt: what it should show.
        short_prompt: what `prompt` was before it was enhanced.
        model: bundled name, hub id or folder; `tiny-i2v` where there is an image and nothing else is said.
        image: file of the first frame, for image-to-video models.
        video: file to begin from.
        strength: how far the result may go from `video`, in (0, 1].
        fit: what happens to a source of another aspect.
        height, width: pixels.
        num_frames: 1, 8k or 8k + 1.
        seconds: instead of `num_frames`: the length, rounded to a count of frames that the model makes.
        fps: of the file.
        num_inference_steps: sampling steps.
        guidance_scale: 1 or less turns guidance off.
        use_dynamic_cfg: guidance that changes with the noise level.
        sampler: the way from noise to video.
        seed: None draws one.
        loras: adapters on the transformer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    prompt: str
    short_prompt: str | None = None
    negative_prompt: str | None = None
    model: str = "tiny"
    image: Path | None = None
    video: Path | None = None
    strength: float | None = Field(default=None, gt=0, le=1)
    fit: Fit = "crop"
    height: int | None = Field(default=None, gt=0)
    width: int | None = Field(default=None, gt=0)
    num_frames: int | None = _also("num_frames", "frames", gt=0)
    seconds: float | None = Field(default=None, gt=0)
    fps: float | None = Field(default=None, gt=0, le=1000)
    num_inference_steps: int | None = _also("num_inference_steps", "steps", gt=0)
    guidance_scale: float | None = _also("guidance_scale", "guidance", ge=0)
    use_dynamic_cfg: bool | None = _also("use_dynamic_cfg", "dynamic_guidance")
    sampler: Literal["ddim", "dpm", "dpm_ode", "ddpm"] | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    loras: tuple[LoRAUse, ...] = Field(default=(), validation_alias=AliasChoices("loras", "lora"))

    @model_validator(mode="before")
    @classmethod
    def _model_of_an_image(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("model") is not None:
            return values
        rest = {name: value for name, value in values.items() if name != "model"}
        return rest if values.get("image") is None else {**rest, "model": "tiny-i2v"}

    @model_validator(mode="before")
    @classmethod
    def _split_size(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("size") is None:
            return values
        if values.get("width") is not None or values.get("height") is not None:
            raise ValueError("give a size, or height and width, not both")
        rest = {name: value for name, value in values.items() if name != "size"}
        width, height = parse_size(str(values["size"]))
        return {**rest, "width": width, "height": height}

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty: say what the video should show")
        return prompt

    @field_validator("sampler", mode="before")
    @classmethod
    def _hyphens(cls, sampler: Any) -> Any:
        return sampler.replace("-", "_") if isinstance(sampler, str) else sampler

    @field_validator("loras", mode="before")
    @classmethod
    def _one_is_a_list(cls, loras: Any) -> Any:
        each = [loras] if isinstance(loras, str | dict) else loras or ()
        if not isinstance(each, list | tuple):
            raise ValueError(f"adapters are a list of files, got {each!r}")
        return [parse_lora(use) if isinstance(use, str) else use for use in each]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.image is not None and self.video is not None:
            raise ValueError("give an image or a video, not both")
        if self.strength is not None and self.video is None:
            raise ValueError("strength says how far the result may go from a video: give a video with it")
        if self.seconds is not None and self.num_frames is not None:
            raise ValueError("give seconds or frames, not both")
        return self


def parse_request(values: dict[str, Any], name: str = "") -> GenerationRequest:
    """Check values that a person wrote; `name` says where, in the error.

    Raises:
        RequestError: one sentence about the first thing that is wrong.
    """
    try:
        return GenerationRequest.model_validate(values)
    except (ValidationError, RequestError) as error:
        where = f"{name}: " if name else ""
        words = explain(error, request_keys()) if isinstance(error, ValidationError) else str(error)
        raise RequestError(f"{where}{words}") from None


def request_keys() -> list[str]:
    """All keys that `parse_request` knows, the words of the command line first."""
    fields = GenerationRequest.model_fields
    aliases = [field.validation_alias for field in fields.values()]
    words = [str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices[1:]]
    return ["size", *words, *fields]


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "720x480". Raises RequestError if it is anything else."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip().lower(), flags=re.ASCII)
    if match is None:
        raise RequestError(f"a size is width x height in pixels, for example 720x480, got {text!r}")
    return int(match[1]), int(match[2])


def parse_lora(text: str) -> LoRAUse:
    """An adapter as "PATH" or "PATH:SCALE"; a colon before anything but a number belongs to the path.

    Raises:
        RequestError: no path, or a scale that is not finite.
    """
    path, separator, scale = text.rpartition(":")
    try:
        value = float(scale) if separator else None
    except ValueError:
        value = None
    if value is None:
        path, value = text, 1.0
    if not path or not math.isfinite(value):
        raise RequestError(f"an adapter is a path, or a path and its scale as in style.safetensors:0.8, got {text!r}")
    return LoRAUse(path=Path(path), scale=value)
