"""The sizes of one run: pixels, frames and latents, completed by the variant's defaults and checked."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from numbers import Integral

from cogworks.config.variants import Variant
from cogworks.errors import RequestError
from cogworks.models.vae_frames import decode_chunks

log = logging.getLogger(__name__)

# Far beyond what any of the networks was trained for, and what would only fail later and less clearly.
MAX_SIDE = 8192
MAX_FRAMES = 8001


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of one video and of its latents.

    Attributes:
        height, width: pixels.
        num_frames: of the video.
        latent_frames: of the state, `pad` included.
        pad: latent frames in front that only make the count divisible by the patch; dropped before decoding.
        rows, columns: of the latents.
    """

    height: int
    width: int
    num_frames: int
    latent_frames: int
    pad: int
    rows: int
    columns: int


def geometry(
    variant: Variant, height: int | None, width: int | None, num_frames: int | None, video_frames: int | None = None
) -> Geometry:
    """The sizes of a run, each as asked for or else the variant's default.

    Args:
        height, width: pixels.
        num_frames: 1, 8k or 8k + 1.
        video_frames: of the video that the run begins from, if any. Where `num_frames` says nothing, as many of its
            frames are used as make a legal count.

    Raises:
        RequestError: a size or count that the variant cannot make; names the nearest that it can.
    """
    transformer, stride = variant.transformer, variant.vae.spatial_stride
    height = variant.defaults.height if height is None else check_whole("height", height)
    width = variant.defaults.width if width is None else check_whole("width", width)
    _check_side("height", height, stride * transformer.patch_size[1])
    _check_side("width", width, stride * transformer.patch_size[2])
    if num_frames is None:
        num_frames = variant.defaults.num_frames if video_frames is None else _usable_frames(variant, video_frames)
    num_frames = check_whole("the number of frames", num_frames)
    _check_frames(variant, num_frames, video_frames)
    if transformer.position_table == "learned":
        _check_training_size(variant, height, width, num_frames)
    latent_frames = _latent_frames(variant, num_frames)
    pad = -latent_frames % transformer.patch_size[0]
    return Geometry(
        height=height,
        width=width,
        num_frames=num_frames,
        latent_frames=latent_frames + pad,
        pad=pad,
        rows=height // stride,
        columns=width // stride,
    )


def nearest_frames(variant: Variant, wanted: float) -> int:
    """The least legal count of at least `wanted` frames: what a length in seconds comes to.

    Args:
        wanted: seconds times frames a second.

    Raises:
        RequestError: `wanted` is not positive, or more than the variant makes.
    """
    if not 0 < wanted < math.inf:
        raise RequestError(f"a video has a positive length, got {wanted:g} frames")
    least = math.ceil(wanted - 1e-6)  # 2.4 s at 10 fps are 24 frames, whatever floating point makes of it
    if variant.transformer.position_table == "learned":
        _check_most(variant, least, variant.transformer.sample_frames)
        return variant.transformer.sample_frames
    _check_most(variant, least, MAX_FRAMES)
    return next(n for n in range(least, MAX_FRAMES + 1) if _is_legal(variant, n, from_video=False))


def check_whole(name: str, value: object) -> int:
    """`value` where it is a whole number, numpy's too. Raises RequestError for anything else, a truth value too."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RequestError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def decoded_frames(num_frames: int, temporal_stride: int) -> int:
    """How many frames come back when `num_frames` are asked for (docs/parity.md#frame-counts)."""
    first, *others = decode_chunks((num_frames - 1) // temporal_stride + 1, "chunked")
    start = temporal_stride * (first - 1) + 1 if first % 2 else temporal_stride * first
    return start + temporal_stride * sum(others)


def _check_side(name: str, pixels: int, unit: int) -> None:
    if pixels < unit or pixels % unit:
        nearest = max(unit, round(pixels / unit) * unit)
        nearest = min(nearest, MAX_SIDE)
        raise RequestError(f"{name} must be a positive multiple of {unit}, got {pixels}; the nearest is {nearest}")
    if pixels > MAX_SIDE:
        raise RequestError(f"{name} must be at most {MAX_SIDE} pixels, got {pixels}")


def _check_most(variant: Variant, num_frames: int, most: int) -> None:
    if num_frames > most:
        raise RequestError(f"{variant.name} makes at most {most} frames, got {num_frames}")


def _usable_frames(variant: Variant, video_frames: int) -> int:
    """The largest legal count of a video's first frames."""
    usable = next(
        (n for n in range(min(video_frames, MAX_FRAMES), 0, -1) if _is_legal(variant, n, from_video=True)), None
    )
    if usable is None:
        raise RequestError(
            f"{variant.name} begins from a video of at least {_cycle(variant)} frames, got one of {video_frames}"
        )
    if usable < video_frames:
        log.warning("using the first %d of the video's %d frames", usable, video_frames)
    return usable


def _check_frames(variant: Variant, num_frames: int, video_frames: int | None) -> None:
    from_video = video_frames is not None
    _check_most(variant, num_frames, MAX_FRAMES)
    if video_frames is not None and num_frames > video_frames:
        raise RequestError(
            f"the video to begin from has {video_frames} frames, and {num_frames} were asked for; "
            "leave the number out to use all there are"
        )
    if _is_legal(variant, num_frames, from_video=from_video):
        return
    cycle = _cycle(variant)
    rule = f"frames must be 1, {cycle}k or {cycle}k + 1 (the VAE makes no other count)"
    if from_video and variant.transformer.patch_size[0] > 1:
        rule = f"{variant.name} takes latent frames in pairs and begins from {cycle}k frames"
    least, most = max(1, num_frames - cycle), max(1, num_frames) + cycle
    near = [n for n in range(least, most + 1) if _is_legal(variant, n, from_video=from_video)]
    nearest = min((n for n in near if n <= (video_frames or most)), key=lambda n: abs(n - num_frames), default=cycle)
    raise RequestError(f"{rule}, got {num_frames}; the nearest is {nearest}")


def _is_legal(variant: Variant, num_frames: int, *, from_video: bool) -> bool:
    """Whether the VAE gives back as many frames as it is given, and the patches divide their latents.

    Latents that begin as noise are padded until they divide; those of a video are not.
    """
    if num_frames < 1 or decoded_frames(num_frames, variant.vae.temporal_stride) != num_frames:
        return False
    return not from_video or _latent_frames(variant, num_frames) % variant.transformer.patch_size[0] == 0


def _check_training_size(variant: Variant, height: int, width: int, num_frames: int) -> None:
    transformer, stride = variant.transformer, variant.vae.spatial_stride
    rows, columns = (latents * stride for latents in transformer.sample_size)
    if (height, width, num_frames) != (rows, columns, transformer.sample_frames):
        raise RequestError(
            f"{variant.name} works at {columns}x{rows} with {transformer.sample_frames} frames alone "
            f"(its position table is learned), got {width}x{height} with {num_frames}"
        )


def _latent_frames(variant: Variant, num_frames: int) -> int:
    return (num_frames - 1) // variant.vae.temporal_stride + 1


def _cycle(variant: Variant) -> int:
    """Pixel frames in a pair of latent frames: the VAE decodes two at a time."""
    return 2 * variant.vae.temporal_stride
