"""Published models on a CUDA device beside diffusers': steps, attention kernels, the VAE; random weights, no files.

`benchmarks/gpu.sh` runs it. Every function takes the device and the shapes, so that tests run all of them on a CPU.

Letters: N tokens, D width, L blocks, B batch, C T H W latent channels, frames, rows, columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from measure import Equality, Settings, alternate, check_equal, check_near, make_case, seconds_of, tell
from results import Case, Mark
from rival_transformers import (
    TransformerInputs,
    TransformerPair,
    run_ours,
    runner_of_theirs,
    transformer_inputs,
    transformer_pair,
)
from rival_vaes import decode_ours, decode_theirs, random_latents, vae_pair
from torch import nn

from cogworks.config.architecture import TransformerConfig, VAEConfig
from cogworks.config.variants import COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_I2V, COGVIDEOX_15_5B, Variant
from cogworks.extensions.attach import attach
from cogworks.extensions.kernels import AttentionKernel, KernelName

MODELS = (COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_5B_I2V, COGVIDEOX_15_5B)
KERNELS: tuple[KernelName, ...] = ("flash", "cudnn")
EAGER, COMPILED, VAE_MEMORY = Mark(at_least=1.15), Mark(at_least=1.0), Mark(at_most=0.5)
ROUNDED = 0.05  # relative root mean square: bfloat16 has 8 bits, and 42 blocks add up what it rounds
ASSUMED_RATE = 790e12  # FLOP/s that an H100 or H200 sustains in bfloat16
SHORT = (5, 16, 24)  # latents on which float32 is compared


@dataclass(frozen=True)
class Target:
    """Where and in what it is computed.

    Attributes:
        rate: FLOP/s of a large matrix product there, in the same run.
    """

    device: str
    dtype: torch.dtype
    rate: float

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """All models at their published sizes; one that does not fit into the card's memory is left out, and said."""
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: run this on a machine with one, see benchmarks/gpu.sh")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    target = Target("cuda", torch.bfloat16, matmul_rate("cuda", torch.bfloat16, 8192))
    for variant in MODELS[:1] if settings.quick else MODELS:
        yield from as_far_as_memory_goes(variant.name, partial(model, variant, latent_size(variant), target, settings))
    yield from as_far_as_memory_goes("VAE", partial(vae, COGVIDEOX_2B.vae, (49, 480, 720), target, settings))


def as_far_as_memory_goes(what: str, measured: Callable[[], Iterator[Case]]) -> Iterator[Case]:
    """The cases until one needs more memory than the device has."""
    try:
        yield from measured()
    except torch.cuda.OutOfMemoryError as error:
        tell(f"{what}: left out from here on: {str(error).splitlines()[0]}")
    torch.cuda.empty_cache()


def latent_size(variant: Variant) -> tuple[int, int, int]:
    """(T, H, W) of the variant's own video, padded to whole patches as a pipeline does."""
    defaults, patch, stride = variant.defaults, variant.transformer.patch_size[0], variant.vae.spatial_stride
    frames = (defaults.num_frames - 1) // variant.vae.temporal_stride + 1
    return math.ceil(frames / patch) * patch, defaults.height // stride, defaults.width // stride


def model(variant: Variant, size: tuple[int, int, int], target: Target, settings: Settings) -> Iterator[Case]:
    """A guided step of one model: eager on both sides, by each attention kernel, compiled block by block on both."""
    name = variant.name.removeprefix("cogvideo").lstrip("x-")
    exact = check_float32(variant.transformer, target.device, settings.seed)
    pair = transformer_pair(variant.transformer, settings.seed, device=target.device, dtype=target.dtype)
    inputs = transformer_inputs(
        variant.transformer,
        size,
        batch=2,
        seed=settings.seed,
        same_latents=True,
        device=target.device,
        dtype=target.dtype,
    )
    facts = floor(variant.transformer, size, target)
    facts["largest difference in float32, fewer tokens and blocks"] = exact.difference
    what = f"{variant.name}, a step with guidance, latents {'x'.join(map(str, size))}"
    yield steps(pair, inputs, target, settings, f"{name}-eager", what, EAGER, facts)
    yield from step_memory(pair, inputs, target, settings, f"{name}-memory", what)
    for kernel in KERNELS:
        yield from with_kernel(pair, inputs, target, settings, f"{name}-{kernel}", what, kernel)
    seconds = {
        f"compile seconds, {side}": compile_blocks(blocks, call)
        for side, blocks, call in (
            ("diffusers", pair.theirs.transformer_blocks, _theirs(pair, inputs)),
            ("cogworks", pair.ours.blocks, partial(run_ours, pair.ours, inputs)),
        )
    }
    shown = f"{what}, blocks compiled on both sides"
    yield steps(pair, inputs, target, settings, f"{name}-compiled", shown, COMPILED, {**facts, **seconds})


def steps(
    pair: TransformerPair,
    inputs: TransformerInputs,
    target: Target,
    settings: Settings,
    name: str,
    what: str,
    mark: Mark | None,
    notes: dict[str, float | str],
) -> Case:
    """Seconds of a pass of both branches, as the pair is now."""
    ours, theirs = partial(run_ours, pair.ours, inputs), _theirs(pair, inputs)
    equality = check_near(ours(), theirs().transpose(1, 2), ROUNDED)
    times = alternate(ours, theirs, rounds=settings.few, clock="wall", device=target.device)
    achieved = float(notes.get("TFLOP", 0.0)) / min(times.ours)
    return make_case(
        name,
        what,
        times.ours,
        times.theirs,
        mark=mark,
        equality=equality,
        dtype=target.name,
        shapes=inputs.shapes,
        seed=settings.seed,
        notes={**notes, "TFLOP/s, cogworks": achieved, "difference": "root mean square, relative"},
    )


def step_memory(
    pair: TransformerPair, inputs: TransformerInputs, target: Target, settings: Settings, name: str, what: str
) -> Iterator[Case]:
    """Bytes of a pass above weights and inputs; nothing where the device does not count them."""
    calls = (partial(run_ours, pair.ours, inputs), _theirs(pair, inputs))
    ours, theirs = (device_peak(call, target.device) for call in calls)
    if ours is None or theirs is None:
        return
    yield make_case(
        name,
        f"{what}: peak memory above the weights",
        [ours],
        [theirs],
        unit="B",
        figure="ours / theirs",
        dtype=target.name,
        shapes=inputs.shapes,
        seed=settings.seed,
        notes={"weights": float(sum(p.numel() * p.element_size() for p in pair.ours.parameters()))},
    )


def with_kernel(
    pair: TransformerPair,
    inputs: TransformerInputs,
    target: Target,
    settings: Settings,
    name: str,
    what: str,
    kernel: KernelName,
) -> Iterator[Case]:
    """Seconds with one attention kernel against torch's own choice, both ours; nothing where it cannot run."""
    plain = partial(run_ours, pair.ours, inputs)

    def chosen() -> Any:
        with attach(pair.ours, AttentionKernel(kernel)):
            return plain()

    try:
        equality = check_near(chosen(), plain(), ROUNDED)
    except RuntimeError as error:
        tell(f"{name}: left out: {str(error).splitlines()[0]}")
        return
    times = alternate(chosen, plain, rounds=2, clock="wall", device=target.device)
    yield make_case(
        name,
        f"{what}: {kernel} attention against torch's choice",
        times.ours,
        times.theirs,
        rival="ours, torch's choice",
        equality=equality,
        dtype=target.name,
        shapes=inputs.shapes,
        seed=settings.seed,
        notes={"difference": "root mean square, relative"},
    )


def vae(config: VAEConfig, size: tuple[int, int, int], target: Target, settings: Settings) -> Iterator[Case]:
    """Decoding a clip without tiles: memory, then time."""
    pair = vae_pair(config, settings.seed, device=target.device, dtype=target.dtype)
    latents = random_latents(config, *size, seed=settings.seed).to(target.device, target.dtype)
    ours, theirs = partial(decode_ours, pair.ours, latents), partial(decode_theirs, pair.theirs, latents)
    shown, shapes = f"VAE, decode {'x'.join(map(str, size))} untiled", {"latents": tuple(latents.shape)}
    equality = check_near(ours(), theirs(), ROUNDED)
    notes: dict[str, float | str] = {"difference": "root mean square, relative"}
    peaks = [device_peak(call, target.device) for call in (ours, theirs)]
    if peaks[0] is not None and peaks[1] is not None:
        yield make_case(
            "vae-memory",
            f"{shown}: peak memory above the weights",
            [peaks[0]],
            [peaks[1]],
            unit="B",
            figure="ours / theirs",
            mark=VAE_MEMORY,
            equality=equality,
            dtype=target.name,
            shapes=shapes,
            seed=settings.seed,
            notes=notes,
        )
    times = alternate(ours, theirs, rounds=2, clock="wall", device=target.device)
    yield make_case(
        "vae-time",
        shown,
        times.ours,
        times.theirs,
        equality=equality,
        dtype=target.name,
        shapes=shapes,
        seed=settings.seed,
        notes=notes,
    )


def check_float32(config: TransformerConfig, device: str, seed: int) -> Equality:
    """Two blocks of the published widths in float32, on few tokens, as close as on a CPU. Raises Unequal."""
    short = replace(config, num_layers=2, sample_size=SHORT[1:], sample_frames=4 * SHORT[0] - 3)
    size = (math.ceil(SHORT[0] / config.patch_size[0]) * config.patch_size[0], *SHORT[1:])
    pair = transformer_pair(short, seed, device=device)
    inputs = transformer_inputs(short, size, batch=2, seed=seed, device=device)
    return check_equal(run_ours(pair.ours, inputs), _theirs(pair, inputs)().transpose(1, 2))


def compile_blocks(blocks: nn.ModuleList, call: Callable[[], Any]) -> float:
    """Compile each block by itself, and the seconds until the first result."""
    for block in blocks:
        block.compile(fullgraph=True)
    return seconds_of(call, "wall")


def device_peak(call: Callable[[], Any], device: str) -> int | None:
    """Bytes that torch's allocator gave out at once, above what it had given before."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def floor(config: TransformerConfig, size: tuple[int, int, int], target: Target) -> dict[str, float | str]:
    """The work of a guided step, and the seconds it cannot take less than at two rates."""
    work = 2 * flops(config, size)
    return {
        "TFLOP": work / 1e12,
        "floor seconds at 790 TFLOP/s": work / ASSUMED_RATE,
        "floor seconds at the matrix product's rate": work / target.rate,
        "TFLOP/s of a matrix product": target.rate / 1e12,
    }


def flops(config: TransformerConfig, size: tuple[int, int, int]) -> float:
    """Of one pass of one sample: linears 24 N D^2 L, attention 4 N^2 D L, and the embeddings."""
    patch = math.prod(config.patch_size)
    video, width = math.prod(size) // patch, config.width
    tokens = video + config.text_tokens
    linears = 24 * tokens * width**2 * config.num_layers
    attention = 4 * tokens**2 * width * config.num_layers
    ends = 2 * video * width * (config.in_channels + config.out_channels) * patch
    return linears + attention + ends + 2 * config.text_tokens * config.text_width * width


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matrix product, the best of some."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds_of(lambda: left @ right, "wall", device) for _ in range(10))


def _theirs(pair: TransformerPair, inputs: TransformerInputs) -> Callable[[], Any]:
    return runner_of_theirs(pair.theirs, inputs)
