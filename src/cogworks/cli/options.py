"""Options that several commands share, with their help."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from cogworks.cli.terminal import Switch
from cogworks.config.measures import Quantization

if TYPE_CHECKING:
    from cogworks.pipelines.job import Delivery

CONTENT = Group("What the video shows", sort_key=1)
SETTINGS = Group("How it is sampled", sort_key=2)
FILES = Group("Where it goes", sort_key=3)
MACHINE = Group("On which machine", sort_key=4)


@Parameter(name="*", group=CONTENT)
@dataclass(frozen=True, kw_only=True)
class Content:
    """What to begin from and what to make; None is not given."""

    image: Path | None = None
    """First frame, for image-to-video models."""
    video: Path | None = None
    """Video to begin from."""
    strength: float | None = None
    """How far the result may go from --video, above 0 and up to 1; 0.8 if not given."""
    fit: Literal["crop", "pad", "stretch"] | None = None
    """What happens to an image or video of another aspect; crop if not given."""
    negative_prompt: str | None = None
    """What the video should not show."""
    frames: int | None = None
    """Number of frames: 1, 8k or 8k + 1; the model's own, or the video's, if not given."""
    seconds: float | None = None
    """Length instead of --frames, rounded to frames that the model makes."""
    size: str | None = None
    """Width and height in pixels, for example 720x480; the model's own if not given."""
    fps: float | None = None
    """Frames per second of the file; the model's motion stays what it is."""


@Parameter(name="*", group=SETTINGS)
@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the model is asked; None is not given."""

    model: str | None = None
    """Bundled name, Hugging Face id, or a folder in the layout of diffusers or of SAT; tiny if not given, or
    tiny-i2v with --image."""
    seed: int | None = None
    """The same seed and settings give the same video. Drawn and reported if not given."""
    steps: int | None = None
    """Number of sampling steps; the model's own if not given."""
    guidance: float | None = None
    """How strongly the prompt is followed; 1 or less turns guidance off; the model's own if not given."""
    dynamic_guidance: bool | None = None
    """Let guidance change with the noise level, as the published 5B models do."""
    sampler: Literal["ddim", "dpm", "dpm-ode", "ddpm"] | None = None
    """The way from noise to video."""
    lora: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None
    """Adapter file, as PATH or PATH:SCALE; may be given several times."""


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where networks run and how much memory they may take; None chooses."""

    device: str | None = None
    """cuda, cuda:1, mps or cpu; the best there is if not given."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What to compute in; if not given, what was published, or float32 where the device has no units for that."""
    memory: str | None = None
    """Memory that the run may take, for example 8GB; what is free if not given."""
    tile: str | None = None
    """Have the VAE work in overlapping tiles of this width and height in pixels, for example 256x256: less memory, and
    pixels that are close, not equal. Never done without asking."""
    quantize: Quantization | None = None
    """Hold the transformer in 8 bits, which changes pixels: int8-weights for less memory, int8 to multiply in 8 bits
    too, for speed on CPUs with VNNI or AMX."""

    def tile_sides(self) -> tuple[int, int] | None:
        """Height and width of --tile. Raises RequestError where it is no size."""
        from cogworks.config.request import parse_size

        if self.tile is None:
            return None
        width, height = parse_size(self.tile)
        return height, width


@Parameter(name="*", group=FILES)
@dataclass(frozen=True, kw_only=True)
class Files:
    """What is written and how."""

    force: Switch = False
    """Replace a file that is already there."""
    no_metadata: Switch = False
    """Leave the recipe out of the file."""
    upscale: int = 1
    """Enlarge the frames of the file so many times, to watch what a small model makes."""
    show: Switch = False
    """Play the result here, in a terminal that shows pictures (kitty, iTerm2, sixel)."""
    resumable: Switch = False
    """Keep the state of sampling beside the file, so that the same command goes on after an interruption."""

    def delivery(self) -> Delivery:
        """As the library takes it."""
        from cogworks.pipelines.job import Delivery

        return Delivery(upscale=self.upscale, recipe=not self.no_metadata, resumable=self.resumable, replace=self.force)


def given(*groups: object) -> dict[str, Any]:
    """What a person gave, by name."""
    values = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if value is not None}
