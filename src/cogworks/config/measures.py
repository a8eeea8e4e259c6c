"""What a run may do to need less memory. Knows no torch: the same object stands in a plan and a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cogworks.errors import RequestError

Quantization = Literal["int8", "int8-weights"]
"""How the linears of a transformer's blocks may be held in 8 bits. No measure: it changes every pixel, and is for the
whole life of a pipeline. "int8" multiplies tokens in 8 bits too, "int8-weights" computes as without it."""


STRIPS = (8, 16, 32)
"""How many strips a run takes, if any: as many as it needs. What a layer holds beside its input and its result is then
an eighth or less; each strip computes the norm of two rows of its neighbours."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How a run trades time for memory. A run takes them by itself, but for tiles: those have to be asked for.

    How exact each of them is, in figures that tests hold, is said in docs/hardware.md#how-exact-they-are.

    Attributes:
        offload: text encoder, transformer and VAE are in memory one after the other, each while it works. On an
            accelerator the others wait on the host; on a CPU they are read again from their files. Same pixels.
        split_guidance: the two halves of guidance pass through the transformer one after the other. Same pixels, up to
            the rounding of a matrix product, which depends on its number of rows.
        slicing: the videos of a batch pass through the VAE one after the other. Same pixels, up to the same rounding.
        strips: in how many strips of rows each layer of the VAE works; 1 for whole pictures. With several, what waits
            between two pieces of a clip waits on the host, where that is not the device. Same pixels, up to the same
            rounding: these are tiles whose layers see the whole picture.
        tile: height and width in pixels of the tiles that the VAE works in; None for whole pictures. Blended where
            tiles overlap, so the pixels are close to those of whole pictures, and not equal.
    """

    offload: bool = False
    split_guidance: bool = False
    slicing: bool = False
    strips: int = 1
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.strips < 1:
            raise RequestError(f"strips is how many strips a picture is cut into, at least 1, got {self.strips}")
