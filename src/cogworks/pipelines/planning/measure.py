"""What each part of a run takes, by dry runs of the code that will run.

The networks are built on the meta device, and `Denoiser`, `codec` and the text encoder work on tensors without values
under a `Meter`.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from cogworks.config.measures import Measures, Quantization
from cogworks.config.variants import Variant
from cogworks.diffusion.edm import noise_schedule
from cogworks.diffusion.guidance import constant_guidance
from cogworks.nn.time_context import Waiting
from cogworks.pipelines import codec
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.geometry import Geometry
from cogworks.pipelines.planning.meter import FusedAttention, Meter, Work
from cogworks.pipelines.planning.repeats import Repeating
from cogworks.pipelines.planning.results import Form
from cogworks.pipelines.progress import ignore
from cogworks.pipelines.prompts import Branches
from cogworks.pipelines.quantization import packing_of
from cogworks.pipelines.waiting import waits_on_host
from cogworks.weights.components import empty_text_encoder, empty_transformer, empty_vae

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Part:
    """What one network takes for its part of a run.

    Attributes:
        weights: bytes of the network.
        working: bytes of what of it works: a half of the VAE, all of the others.
        alive: most bytes of tensors at once beyond the weights, what goes in and comes out included.
        unread: bytes of what works that come later than this, where weights are read as they are first used.
        work: of the whole part.
    """

    weights: int
    working: int
    alive: int
    unread: int
    work: Work


@lru_cache(maxsize=64)
def measure_text(variant: Variant, prompts: int, dtype: torch.dtype, device: torch.device) -> Part:
    """Reading `prompts` different prompts, one after the other."""
    network = empty_text_encoder(variant).cast(dtype)
    stored = getattr(torch, variant.dtype)
    if stored in _NARROW and dtype not in _NARROW:  # its linears stay as they are stored: `weights.load_text_encoder`
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.to(stored)
    with _dry_run(network, device) as meter:
        network(_meta((1, variant.transformer.text_tokens), torch.int64))
    part = _part(network, meter)
    return replace(part, work=part.work * prompts)


@lru_cache(maxsize=64)
def measure_steps(
    variant: Variant,
    size: Geometry,
    batch: int,
    guided: bool,
    split_guidance: bool,
    steps: int,
    quantize: Quantization | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Part:
    """Sampling `batch` videos in `steps` steps: a pass through the transformer for each branch of guidance in each."""
    network = empty_transformer(variant).to(dtype)
    if quantize is not None:
        packing_of(quantize).prepare(network)
    config = variant.transformer
    state = _meta((batch, config.out_channels, size.latent_frames, size.rows, size.columns), torch.float32)
    walk = noise_schedule(variant.schedule).steps(steps)
    text, negative = (_meta((batch, config.text_tokens, config.text_width), dtype) for _ in range(2))
    denoise = Denoiser(
        network,
        variant.schedule.prediction,
        Branches(text, negative if guided else None),
        constant_guidance(2.0),
        _meta(tuple(state.shape), torch.float32) if config.takes_image else None,
        walk,
        Measures(split_guidance=split_guidance),
        lambda measures: None,
    )
    with _dry_run(network, device) as meter:
        denoise.prepare()
        once = meter.work
        denoise(state, walk[0])
    part = _part(network, meter)
    return replace(part, work=once + (part.work - once) * steps)


@lru_cache(maxsize=256)
def measure_decoding(
    variant: Variant,
    size: Geometry,
    batch: int,
    strips: int,
    tile: tuple[int, int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Part:
    """Decoding `batch` videos at once."""
    network = empty_vae(variant).to(dtype)
    frames = size.latent_frames - size.pad
    latents = _meta((batch, variant.vae.latent_channels, frames, size.rows, size.columns), torch.float32)
    with _dry_run(network, device) as meter:
        network.decoder = Repeating(network.decoder, meter)  # type: ignore[assignment]
        measures = Measures(strips=strips, tile=tile)
        codec.decode(network, latents, measures, lambda piece: None, ignore, _waiting_room(measures, device))
    return _part(network, meter, network.decoder)


@lru_cache(maxsize=64)
def measure_encoding(
    variant: Variant,
    size: Geometry,
    num_frames: int,
    strips: int,
    tile: tuple[int, int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Part:
    """Encoding one image, or one video of `num_frames`."""
    network = empty_vae(variant).to(dtype)
    frames = np.broadcast_to(np.uint8(0), (num_frames, size.height, size.width, 3))
    with _dry_run(network, device) as meter:
        network.encoder = Repeating(network.encoder, meter)  # type: ignore[assignment]
        measures = Measures(strips=strips, tile=tile)
        codec.encode(network, frames, measures, _waiting_room(measures, device))
    return _part(network, meter, network.encoder)


class _Forms(MutableMapping[Hashable, Tensor]):
    """Stands in for `OnHost`: what waits there takes nothing on the device, and is made anew when it is asked for."""

    def __init__(self) -> None:
        self._forms: dict[Hashable, Form] = {}

    def __setitem__(self, key: Hashable, frames: Tensor) -> None:
        self._forms[key] = Form.of(frames)

    def __getitem__(self, key: Hashable) -> Tensor:
        return self._forms[key].tensor()

    def __delitem__(self, key: Hashable) -> None:
        del self._forms[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)


def _waiting_room(measures: Measures, device: torch.device) -> Callable[[], Waiting]:
    return _Forms if waits_on_host(measures, device) else dict


@contextmanager
def _dry_run(network: nn.Module, device: torch.device) -> Iterator[Meter]:
    with torch.no_grad(), Meter(device, network.parameters()) as meter, FusedAttention():
        yield meter


def _part(network: nn.Module, meter: Meter, works: nn.Module | None = None) -> Part:
    working = _weight_bytes(works or network)
    return Part(_weight_bytes(network), working, meter.peak, meter.peak + working - meter.peak_as_used, meter.work)


def _weight_bytes(network: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def _meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
