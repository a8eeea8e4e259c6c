"""What is asked of one run, checked and completed before any network runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cogworks.config.variants import Variant
from cogworks.errors import RequestError
from cogworks.models.vae_frames import decode_chunks


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of one video and of its latents.

    Attributes:
        pad: latent frames in front that only make the count divisible by the patch; dropped before decoding.
    """

    height: int
    width: int
    num_frames: int
    latent_frames: int
    pad: int
    spatial_stride: int

    def latent_shape(self, batch: int, channels: int) -> tuple[int, int, int, int, int]:
        return (
            batch,
            channels,
            self.latent_frames + self.pad,
            self.height // self.spatial_stride,
            self.width // self.spatial_stride,
        )


def geometry(variant: Variant, height: int, width: int, num_frames: int) -> Geometry:
    """Check a size and a frame count against what the variant can make.

    Raises:
        RequestError: names the nearest legal value.
    """
    vae, transformer = variant.vae, variant.transformer
    for name, size, patch in (("height", height, transformer.patch_size[1]), ("width", width, transformer.patch_size[2])):
        unit = vae.spatial_stride * patch
        if size < unit or size % unit:
            nearest = max(unit, round(size / unit) * unit)
            raise RequestError(f"{name} must be a positive multiple of {unit}, got {size}; the nearest is {nearest}")
    if transformer.position_table == "learned":
        fixed = tuple(n * vae.spatial_stride for n in transformer.sample_size)
        if (height, width) != fixed or num_frames != transformer.sample_frames:
            raise RequestError(
                f"{variant.name} works at {fixed[1]}x{fixed[0]} with {transformer.sample_frames} frames alone "
                f"(its position table is learned), got {width}x{height} with {num_frames}"
            )
    if num_frames < 1 or decoded_frames(num_frames, vae.temporal_stride) != num_frames:
        legal = [n for n in range(max(1, num_frames - 8), num_frames + 9) if decoded_frames(n, vae.temporal_stride) == n]
        nearest = min(legal, key=lambda n: abs(n - num_frames)) if legal else 1
        raise RequestError(
            f"frames must be 1, 8k or 8k + 1 (the VAE makes no other count), got {num_frames}; the nearest is {nearest}"
        )
    latent_frames = (num_frames - 1) // vae.temporal_stride + 1
    pad = -latent_frames % transformer.patch_size[0]
    return Geometry(
        height=height,
        width=width,
        num_frames=num_frames,
        latent_frames=latent_frames,
        pad=pad,
        spatial_stride=vae.spatial_stride,
    )


def decoded_frames(num_frames: int, temporal_stride: int) -> int:
    """How many frames come back when `num_frames` are asked for (docs/parity.md#frame-counts)."""
    latent_frames = (num_frames - 1) // temporal_stride + 1
    first, *others = decode_chunks(latent_frames, "chunked")
    start = temporal_stride * (first - 1) + 1 if first % 2 else temporal_stride * first
    return start + temporal_stride * sum(others)


def largest_legal_frames(num_frames: int, temporal_stride: int) -> int:
    """The largest frame count up to `num_frames` that the VAE gives back whole."""
    return next(n for n in range(num_frames, 0, -1) if decoded_frames(n, temporal_stride) == n)


def check_prompts(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    prompt_embeds: Any,
    negative_prompt_embeds: Any,
) -> None:
    """The rules that diffusers users know: one way to give each prompt, of one length.

    Raises:
        RequestError: says which rule was broken.
    """
    if (prompt is None) == (prompt_embeds is None):
        raise RequestError("give either prompt or prompt_embeds, and not both")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise RequestError("give either negative_prompt or negative_prompt_embeds, not both")
    if negative_prompt_embeds is not None and prompt_embeds is None:
        raise RequestError("negative_prompt_embeds needs prompt_embeds, not prompt")
    if prompt_embeds is not None and negative_prompt_embeds is not None:
        shapes = tuple(prompt_embeds.shape), tuple(negative_prompt_embeds.shape)
        if shapes[0] != shapes[1]:
            raise RequestError(f"prompt_embeds and negative_prompt_embeds must have one shape, got {shapes}")
    for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if value is not None and not isinstance(value, str) and not (value and all(isinstance(p, str) for p in value)):
            raise RequestError(f"{name} must be a string or a list of strings, got {value!r}")
    if isinstance(prompt, list) and isinstance(negative_prompt, list) and len(prompt) != len(negative_prompt):
        raise RequestError(f"got {len(prompt)} prompts and {len(negative_prompt)} negative prompts")


def check_guidance(guidance_scale: float) -> None:
    """Raises RequestError unless the scale is a finite number of at least 0."""
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
        raise RequestError(f"guidance must be a number of at least 0, got {guidance_scale}")
