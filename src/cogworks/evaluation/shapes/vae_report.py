"""What was measured of a VAE, see `cogworks.evaluation.shapes.vae_eval`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogworks.evaluation.figures.shares import Mean, Share

EVALUATION_SEED = 1_000_003  # of the clips; training must draw its clips with another
MIN_CHANGE = 0.01 / 255  # of an error; what no screen shows is not divided by


@dataclass(frozen=True)
class GivenBack:
    """How clips of one kind come back.

    Attributes:
        psnr: dB, over clips.
        ssim: over clips.
        unchanged: clips that the oracle reads the same before and after.
        by_attribute: the same for each of `ATTRIBUTES` alone, of all objects of a clip.
    """

    psnr: Mean
    ssim: Mean
    unchanged: Share
    by_attribute: dict[str, Share]

    def to_json(self) -> dict[str, object]:
        return {
            "psnr": self.psnr.to_json(),
            "ssim": self.ssim.to_json(),
            "unchanged": self.unchanged.to_json(),
            "by_attribute": {name: share.to_json() for name, share in self.by_attribute.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GivenBack:
        return cls(
            Mean.from_json(values["psnr"]),
            Mean.from_json(values["ssim"]),
            Share.from_json(values["unchanged"]),
            {name: Share.from_json(share) for name, share in values["by_attribute"].items()},
        )


@dataclass(frozen=True)
class Seams:
    """Mean absolute change, from one frame to the next, of the error of each value in 0..1.

    Attributes:
        chunks: at the first frame of every chunk but the first.
        latents: at the first frame of every other latent frame but the first.
        frames: at every frame that is not the first of a chunk.
    """

    chunks: float
    latents: float
    frames: float

    @property
    def ratio(self) -> float:
        """A chunk's beginning against all other frames."""
        return max(self.chunks, MIN_CHANGE) / max(self.frames, MIN_CHANGE)

    @property
    def latent_ratio(self) -> float:
        """A chunk's beginning against a latent frame's: 1 where cutting into chunks does not show."""
        return max(self.chunks, MIN_CHANGE) / max(self.latents, MIN_CHANGE)

    def to_json(self) -> dict[str, object]:
        return {
            "chunks": self.chunks,
            "latents": self.latents,
            "frames": self.frames,
            "ratio": self.ratio,
            "latent_ratio": self.latent_ratio,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Seams:
        return cls(values["chunks"], values["latents"], values["frames"])


@dataclass(frozen=True)
class VAEReport:
    """What a VAE does to clips.

    Attributes:
        one_object, two_objects: what comes back of moving clips, drawn from all combinations.
        still: mean absolute difference of neighbouring frames that come back of clips without motion, of values in
            0..1; the mean of a clip, over clips.
        resting: the same of the pixels that do not change in moving clips of one object.
        seams: of "still" and "moving" clips of one object; empty where a clip is one chunk.
    """

    one_object: GivenBack
    two_objects: GivenBack
    still: Mean
    resting: Mean
    seams: dict[str, Seams]

    def to_json(self) -> dict[str, object]:
        """Everything, as a dict that `json.dumps` takes."""
        return {
            "seed": EVALUATION_SEED,
            "one_object": self.one_object.to_json(),
            "two_objects": self.two_objects.to_json(),
            "still": self.still.to_json(),
            "resting": self.resting.to_json(),
            "seams": {name: seams.to_json() for name, seams in self.seams.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VAEReport:
        """What `to_json` gave. KeyError where a figure is missing."""
        return cls(
            GivenBack.from_json(values["one_object"]),
            GivenBack.from_json(values["two_objects"]),
            Mean.from_json(values["still"]),
            Mean.from_json(values["resting"]),
            {name: Seams.from_json(seams) for name, seams in values["seams"].items()},
        )

    def lines(self) -> list[str]:
        """For a table in plain text, a line a question."""
        lines = [
            _line("one object", self.one_object),
            _line("two objects", self.two_objects),
            f"frames differ by {_levels(self.still)} in still clips, by {_levels(self.resting)} in resting parts",
        ]
        if "moving" in self.seams:
            moving = self.seams["moving"]
            lines.append(
                f"the error changes {moving.ratio:.2f} times as much at a chunk as at other frames, "
                f"{moving.latent_ratio:.2f} times as much as at other latent frames"
            )
        return lines


def _line(name: str, clips: GivenBack) -> str:
    low, high = clips.unchanged.interval
    share = f"{clips.unchanged.value:.1%} ({low:.1%} to {high:.1%})"
    return f"{name}: PSNR {clips.psnr.mean:.2f} dB, SSIM {clips.ssim.mean:.4f}, read unchanged {share}"


def _levels(difference: Mean) -> str:
    return f"{255 * difference.mean:.2f} / 255 (at most {255 * difference.high:.2f})"
