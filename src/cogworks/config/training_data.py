"""What a training run learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from cogworks.config.strict import Strict


class Bucket(NamedTuple):
    """The shape of the clips of one batch, in frames and pixels."""

    frames: int
    height: int
    width: int


class ShapesData(Strict):
    """Clips of the Shapes world, drawn without end. Sizes in pixels.

    Attributes:
        two_objects: share of clips that show two objects.
        vague_captions: share of captions that leave shape, colour or background unsaid (`data.vague_captions`).
        pictures: share of clips that show moving pictures of no world in place of objects (`data.pictures`); a
            caption names their motion and nothing that can be seen in them.
    """

    kind: Literal["shapes"] = "shapes"
    seed: int = 0
    size: int = Field(default=64, gt=0)
    frames: int = Field(default=17, gt=0)
    fps: float = Field(default=8.0, gt=0)
    two_objects: float = Field(default=0.15, ge=0, le=1)
    vague_captions: float = Field(default=0.0, ge=0, le=1)
    pictures: float = Field(default=0.0, ge=0, le=1)


class ClipsData(Strict):
    """Captioned clips from files.

    Attributes:
        source: a folder of clips with captions beside them, SAT's `videos` and `labels`, a manifest (.jsonl, .csv),
            CogVideo's `videos.txt` and `prompts.txt`, or tar shards; which it is shows in what is there.
        sizes: (frames, height, width) that clips are brought to. A clip goes to the one with most frames that it has,
            and of those to the nearest in shape; every batch has one of them.
        fps: frames a second to sample at; None takes every `stride`-th frame of what is there.
        stride: used where `fps` is None.
        start: where in a longer clip the frames begin.
        crop: which part of a picture of another shape is kept; `resize` keeps all of it and distorts.
        short_clips: leave out clips of too few frames, or repeat their last frame.
        skip_ends: frames to leave out at both ends.
        caption_prefix: put before every caption, for example a word that calls for what is taught.
    """

    kind: Literal["clips"]
    source: Path
    sizes: tuple[Bucket, ...] = Field(min_length=1)
    fps: float | None = Field(default=None, gt=0)
    stride: int = Field(default=1, gt=0)
    start: Literal["first", "middle", "random"] = "middle"
    crop: Literal["centre", "random", "resize"] = "centre"
    short_clips: Literal["skip", "pad"] = "skip"
    skip_ends: int = Field(default=0, ge=0)
    caption_prefix: str = ""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for bucket in self.sizes:
            if min(bucket) < 1:
                raise ValueError(f"sizes are (frames, height, width), each 1 or more; got {list(bucket)}")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes names one shape twice")
        if self.fps is not None and self.stride != 1:
            raise ValueError("fps and stride both say which frames to take; give one of them")
        return self


TrainingData = Annotated[ShapesData | ClipsData, Field(discriminator="kind")]
