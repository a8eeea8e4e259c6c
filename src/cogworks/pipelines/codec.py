"""Frames to latents and back: what the VAE does for a run, within the run's measures.

Pixels exist one piece at a time: a clip is uint8 before it is encoded and after it is decoded.

Letters: B videos, C latent channels, t latent frames, T frames, H W pixels, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.models.vae import VAE
from cogworks.models.vae_frames import encode_chunks
from cogworks.models.vae_posterior import Posterior
from cogworks.models.vae_tiling import Tiling, decode_tiled_stream, encode_tiles
from cogworks.nn.time_context import Waiting
from cogworks.pipelines.finite import check_result
from cogworks.pipelines.inference import inference
from cogworks.pipelines.progress import OnProgress, Progress
from cogworks.pipelines.waiting import waiting_room
from cogworks.video import to_pixels

P = TypeVar("P")
MakeWaiting = Callable[[], Waiting]


def encode(vae: VAE, frames: NDArray[np.uint8], measures: Measures, waiting: MakeWaiting | None = None) -> Posterior:
    """The latents of one clip or image, as a distribution (1, C, t, h, w).

    Args:
        frames: (T, H, W, 3) uint8.
        waiting: makes the place where frames wait between two pieces; what `waiting_room` says if not given.

    Raises:
        RequestError: a number of frames or a size the VAE does not take.
        NumericsError: the result is not finite.
    """
    sizes = encode_chunks(len(frames), "chunked", vae.config.temporal_stride)
    ends = np.cumsum(sizes).tolist()
    weight = next(vae.parameters())
    room = waiting or waiting_room(measures, weight.device)

    def moments_of(rows: slice, columns: slice) -> Tensor:
        pieces = (to_pixels(frames[end - size : end, rows, columns]) for size, end in zip(sizes, ends, strict=True))
        stream = vae.encode_stream((piece.to(weight) for piece in pieces), strips=measures.strips, waiting=room)
        moments = torch.cat(list(stream), dim=2)
        # Before a posterior clamps its variances: an infinite one would go unseen.
        check_result(moments, f"what the VAE encodes the {'image' if len(frames) == 1 else 'video'} to", weight.dtype)
        return moments

    if measures.tile is None:
        return Posterior.from_moments(moments_of(slice(None), slice(None)))
    return encode_tiles(vae.config, moments_of, frames.shape[1:3], _tiling(measures.tile))


def decode(
    vae: VAE,
    latents: Tensor,
    measures: Measures,
    convert: Callable[[Tensor], P],
    on_progress: OnProgress,
    waiting: MakeWaiting | None = None,
) -> list[list[P]]:
    """The clips of latents of the diffusion process.

    Args:
        latents: (B, C, t, h, w).
        convert: (b, 3, T, H, W) in [-1, 1] -> what is kept of a piece.
        on_progress: hears of phase "decode", in latent frames.
        waiting: as for `encode`.

    Returns:
        The pieces of the batch in the order of time; with slicing, a list of pieces for each video.

    Raises:
        RequestError: a tile size that the VAE does not take.
        NumericsError: a piece is not finite.
    """
    weight = next(vae.parameters())
    room = waiting or waiting_room(measures, weight.device)
    groups = latents.split(1 if measures.slicing else len(latents))
    done, total = 0, len(groups) * latents.shape[2]
    on_progress(Progress("decode", done, total))
    decoded: list[list[P]] = []
    for group in groups:
        decoded.append([])
        first = 1
        for piece in _stream(vae, vae.from_diffusion(group).to(weight), measures, room):
            last = first + piece.shape[2] - 1
            check_result(piece, f"what the VAE decodes to frames {first} to {last}", weight.dtype)
            first = last + 1
            decoded[-1].append(convert(piece))
            done += -(-piece.shape[2] // vae.config.temporal_stride)
            on_progress(Progress("decode", done, total))
    return decoded


def _stream(vae: VAE, latents: Tensor, measures: Measures, waiting: MakeWaiting) -> Iterator[Tensor]:
    strips = measures.strips
    if measures.tile is None:
        pieces = vae.decode_stream(latents, strips=strips, waiting=waiting)
    else:
        pieces = decode_tiled_stream(vae, latents, _tiling(measures.tile), strips=strips, waiting=waiting)
    while True:
        with inference(latents):  # and not what the caller does between pieces
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _tiling(tile: tuple[int, int]) -> Tiling:
    return Tiling(height=tile[0], width=tile[1])
