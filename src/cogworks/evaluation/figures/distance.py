"""How far the result of an approximation is from the exact result of the same request."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cogworks.evaluation.figures.metrics import psnr


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Between two results of one request.

    Attributes:
        latents_mean, latents_max: absolute difference of latents.
        latents_relative: norm of the difference over the norm of the exact latents.
        pixels_mean, pixels_max: absolute difference of values, in levels of 255.
        psnr: of all values, in dB; None where they are equal.
    """

    latents_mean: float
    latents_max: float
    latents_relative: float
    pixels_mean: float
    pixels_max: int
    psnr: float | None

    @classmethod
    def between(cls, found: tuple[NDArray[np.uint8], Tensor], exact: tuple[NDArray[np.uint8], Tensor]) -> Distance:
        """Of frames (T, H, W, 3) and latents (B, C, t, h, w) to those of the exact run, of the same shapes."""
        latents = (found[1].double() - exact[1].double()).abs()
        pixels = np.abs(found[0].astype(np.int16) - exact[0])
        decibels = psnr(found[0], exact[0])
        return cls(
            latents_mean=float(latents.mean()),
            latents_max=float(latents.max()),
            latents_relative=float(latents.norm() / exact[1].double().norm()),
            pixels_mean=float(pixels.mean()),
            pixels_max=int(pixels.max()),
            psnr=decibels if math.isfinite(decibels) else None,
        )

    def to_json(self) -> dict[str, float | int | None]:
        """The same, in the digits that mean something."""
        return {n: float(f"{value:.4g}") if isinstance(value, float) else value for n, value in asdict(self).items()}

    def __str__(self) -> str:
        pixels = (
            "equal" if self.psnr is None else f"PSNR {self.psnr:.1f} dB, at most {self.pixels_max} of 255 levels off"
        )
        return (
            f"latents {100 * self.latents_relative:.2g}% off ({self.latents_mean:.2g} on average, "
            f"{self.latents_max:.2g} at most), pixels {pixels}"
        )
