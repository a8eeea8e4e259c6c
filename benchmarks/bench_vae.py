"""VAEs beside diffusers': the bundled one, a slim one, the published one; time, and peak memory in fresh processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import fresh
import torch
from measure import Settings, alternate, check_equal, make_case, peak_of, seconds_of
from results import Case, Mark
from rival_vaes import (
    VAEPair,
    decode_ours,
    decode_theirs,
    encode_ours,
    encode_theirs,
    random_clip,
    random_latents,
    tiny_vaes,
    vae_pair,
)
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.config.variants import COGVIDEOX_2B, TINY
from cogworks.pipelines.output import frames_of

SLIM = replace(TINY.vae, widths=(32, 64, 64, 128), latent_channels=16, layers_per_block=2, norm_groups=8)
FULL = COGVIDEOX_2B.vae
DECODE, ENCODE, DECODE_LARGE = Mark(at_least=2.5), Mark(at_least=3.0), Mark(at_least=1.4)
FULL_DECODE = Mark(at_least=1.0, aim=1.2)
MEMORY, STREAMED = Mark(at_most=0.6), Mark(at_most=1.1)
Size = tuple[int, int, int]  # frames, height, width
Side = Literal["ours", "theirs", "streamed"]
PROCESSES = 5
SMALL, LARGE = (17, 64, 64), (17, 128, 128)


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """All cases; the published VAE and streaming are left out of the quick set."""
    for name, what, pair in (
        ("tiny", "`tiny`'s VAE", tiny_vaes()),
        ("slim", "VAE of widths 32 to 128", vae_pair(SLIM, settings.seed)),
    ):
        yield timed(pair, "decode", SMALL, settings, f"{name}-decode", f"{what}, decode", DECODE)
        yield timed(pair, "encode", SMALL, settings, f"{name}-encode", f"{what}, encode", ENCODE)
        if name == "tiny" or not settings.quick:
            yield timed(pair, "decode", LARGE, settings, f"{name}-decode-128", f"{what}, decode", DECODE_LARGE)
    if settings.quick:
        yield peak(SLIM, LARGE, settings, "slim-peak", "VAE of widths 32 to 128")
        return
    yield streamed(SLIM, settings, "slim-streamed", "VAE of widths 32 to 128", (LARGE, (49, *LARGE[1:])))
    pair = vae_pair(FULL, settings.seed)
    for size in ((9, 48, 80), (9, 80, 128)):
        name = f"full-decode-{size[1]}"
        yield timed(pair, "decode", size, settings, name, "published VAE (215.6 M), decode", FULL_DECODE)
    yield timed(pair, "encode", (9, 48, 80), settings, "full-encode-48", "published VAE (215.6 M), encode")
    del pair
    for name, config, size, what in (
        ("slim-peak", SLIM, LARGE, "VAE of widths 32 to 128"),
        ("full-peak", FULL, (9, 80, 128), "published VAE (215.6 M)"),
    ):
        yield peak(config, size, settings, name, what)
    sizes = ((17, 80, 128), (49, 80, 128))
    yield streamed(FULL, settings, "full-streamed", "published VAE (215.6 M)", sizes)


def timed(
    pair: VAEPair,
    job: Literal["encode", "decode"],
    size: Size,
    settings: Settings,
    name: str,
    what: str,
    mark: Mark | None = None,
) -> Case:
    """Seconds of decoding or encoding one clip of `size`."""
    if job == "decode":
        given = random_latents(pair.ours.config, *size, seed=settings.seed)
        ours, theirs = partial(decode_ours, pair.ours, given), partial(decode_theirs, pair.theirs, given)
    else:
        given = random_clip(*size, seed=settings.seed)
        ours, theirs = partial(encode_ours, pair.ours, given), partial(encode_theirs, pair.theirs, given)
    equality = check_equal(ours(), theirs())
    rounds = settings.rounds if seconds_of(ours, settings.clock) < 2 else settings.few
    times = alternate(ours, theirs, rounds=rounds, clock=settings.clock)
    return make_case(
        name,
        f"{what} {_shown(size)}",
        times.ours,
        times.theirs,
        mark=mark,
        equality=equality,
        shapes={"latents" if job == "decode" else "pixels": tuple(given.shape)},
        seed=settings.seed,
    )


def peak(config: VAEConfig, size: Size, settings: Settings, name: str, what: str) -> Case:
    """Bytes of decoding above the weights, in fresh processes."""
    ours, theirs = _peaks([_asked(config, size, settings, side) for side in ("ours", "theirs")], settings)
    return make_case(
        name,
        f"{what}, peak memory of decoding {_shown(size)} above the weights",
        ours,
        theirs,
        unit="B",
        figure="ours / theirs",
        mark=MEMORY,
        allocator="default",
        shapes={"latents": tuple(random_latents(config, *size, seed=0).shape)},
        seed=settings.seed,
    )


def streamed(config: VAEConfig, settings: Settings, name: str, what: str, sizes: tuple[Size, Size]) -> Case:
    """Bytes of decoding a long clip piece by piece to uint8, against a short one."""
    short, long = _peaks([_asked(config, size, settings, "streamed") for size in sizes], settings)
    return make_case(
        name,
        f"{what}, peak memory of decoding {_shown(sizes[1])} piece by piece",
        long,
        short,
        unit="B",
        figure="ours / theirs",
        rival=f"{sizes[0][0]} frames",
        mark=STREAMED,
        allocator="default",
        shapes={"latents": tuple(random_latents(config, *sizes[1], seed=0).shape)},
        seed=settings.seed,
    )


def _asked(config: VAEConfig, size: Size, settings: Settings, side: Side) -> dict[str, Any]:
    return {"config": asdict(config), "size": size, "side": side, "seed": settings.seed}


def _peaks(asked: list[dict[str, Any]], settings: Settings) -> list[list[int]]:
    times = 1 if settings.quick else PROCESSES
    return fresh.call_in_turn("bench_vae", "measure_peak", asked, times=times, threads=settings.threads)


@torch.no_grad()
def measure_peak(config: dict[str, Any], size: Size, side: Side, seed: int) -> int:
    """In a process of its own: the peak of one side above the weights, of which only its own are in memory."""
    lists = {key: tuple(value) for key, value in config.items() if isinstance(value, list)}
    pair = vae_pair(VAEConfig(**{**config, **lists}), seed)
    vae_config = pair.ours.config
    decode: Callable[[Tensor], Any]
    if side == "theirs":
        decode = partial(decode_theirs, pair.theirs)
    elif side == "ours":
        decode = partial(decode_ours, pair.ours)
    else:
        network = pair.ours

        def decode(latents: Tensor) -> Any:
            return [frames_of(piece) for piece in network.decode_stream(latents)]

    del pair
    stride = vae_config.spatial_stride
    smallest = random_latents(vae_config, 9, 2 * stride, 2 * stride, seed=seed)
    latents = random_latents(vae_config, *size, seed=seed)
    return peak_of(lambda: decode(latents), lambda: decode(smallest))


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}x{size[2]}"
