"""The plan of a run: what each phase takes, and the measures with which that fits into memory.

What a plan counts is what a run holds at once on the device: networks, activations, the state of sampling, and on the
host's own memory the frames, with the libraries and prepared kernels that come into the process on the way. What is
held before (`Plan.baseline`), Python and torch above all, is not the run's.

What it is held to is measured so: on a CPU, by how much the peak of the resident memory of a fresh process exceeds what
it held when the plan was made; on a CUDA device, by how much torch's allocator rose. docs/hardware.md says the same to
users, tests/pipelines/test_plan_memory.py and test_plan_gpu.py compare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import psutil
import torch

from cogworks.config.measures import STRIPS, Measures
from cogworks.config.units import format_memory
from cogworks.config.variants import Variant
from cogworks.pipelines.geometry import decoded_frames, geometry
from cogworks.pipelines.memory import SHARED_MEMORY
from cogworks.pipelines.planning.calibration import Rates, calibrate, remembered_rates
from cogworks.pipelines.planning.libraries import library_bytes
from cogworks.pipelines.planning.measure import Part, measure_decoding, measure_encoding, measure_steps, measure_text
from cogworks.pipelines.planning.meter import Work
from cogworks.pipelines.planning.shape import InMemory, RunShape

PhaseName = Literal["prompt", "source", "steps", "decode"]

_WORKS: dict[PhaseName, str] = {
    "prompt": "text_encoder",
    "source": "vae",
    "steps": "transformer",
    "decode": "vae",
}

SAFE_SHARE = 0.92
"""Share of the free memory that a plan without a budget uses: the rest is for allocators, which keep gaps."""
STATES: dict[PhaseName, int] = {"prompt": 3, "source": 3, "steps": 6, "decode": 6}
"""States of sampling that are alive at once: first noise and what is made of it; then the state, two estimates, noise,
and what a sampler computes from them."""
LONG_FLOPS = {"cpu": 10**13, "mps": 10**14, "cuda": 10**16}
"""From here on a run may take minutes, and its time is worth a calibration."""
NOTHING = InMemory()


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a run.

    Attributes:
        memory: most bytes that are held at once on the device.
        weights: of these, the networks: those that work by then, and those that were there before.
        work: what is computed.
        seconds: expected; None where nothing is known of the device's speed.
    """

    name: PhaseName
    memory: int
    weights: int
    work: Work
    seconds: float | None

    @property
    def flops(self) -> int:
        return self.work.flops


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes, and how it fits.

    Attributes:
        measures: with which this is so.
        budget: bytes that the run may hold.
        baseline: bytes that were held when the plan was made, and are not the run's: on a CPU the resident memory of
            the process, on a CUDA device what is allocated there.
        in_memory: what of the networks is there before.
    """

    shape: RunShape
    measures: Measures
    phases: tuple[Phase, ...]
    budget: int
    baseline: int
    in_memory: InMemory

    @property
    def peak(self) -> int:
        return max(phase.memory for phase in self.phases)

    @property
    def total(self) -> int:
        """Most bytes that are held in all: on a CPU, the peak of the resident memory of the process."""
        return self.baseline + self.peak

    @property
    def fits(self) -> bool:
        return self.peak <= self.budget

    @property
    def fits_without_vae(self) -> bool:
        """Whether all phases fit in which the VAE does not work."""
        return all(phase.memory <= self.budget for phase in self.phases if phase.name in ("prompt", "steps"))

    @property
    def flops(self) -> int:
        return sum(phase.flops for phase in self.phases)

    @property
    def seconds(self) -> float | None:
        """Of all phases, without loading; None where nothing is known of the device's speed."""
        each = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(each) if each else None


def plan_run(
    variant: Variant,
    shape: RunShape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    text_dtype: torch.dtype,
    budget: int | None,
    measures: Measures | None = None,
    tile: tuple[int, int] | None = None,
    seconds: bool | None = None,
    in_memory: InMemory = NOTHING,
) -> Plan:
    """Plan a run. No weights are read and nothing is put on the device, but for the seconds of a calibration.

    Args:
        dtype, text_dtype: what the networks, and the text encoder, compute in.
        budget: bytes that the run may hold on the device; None for what is free there now.
        measures: to describe a run with these; None takes the least costly that fit, or all if none do.
        tile: height and width of the tiles that the VAE is to work in; None for none. No plan takes them by itself.
        seconds: whether to say how long it takes, which calibrates a device that is not known yet; None does where the
            device is known or the run may take minutes.
        in_memory: what of the networks is there before.
    """
    if budget is None:
        budget = int(free_memory(device) * SAFE_SHARE)
    baseline = _baseline(device)  # before tables are computed, which the run will use and counts
    plans: list[Plan] = []
    rungs = list(ladder(shape, tile)) if measures is None else [measures]

    def describe(chosen: Measures) -> Plan:
        phases = tuple(_phases(variant, shape, chosen, device, dtype, text_dtype, in_memory))
        return Plan(shape=shape, measures=chosen, phases=phases, budget=budget, baseline=baseline, in_memory=in_memory)

    for chosen in rungs:
        if plans and chosen.strips > 1 and not any(plan.fits_without_vae for plan in plans):
            break  # they help the VAE alone
        plans.append(describe(chosen))
        if plans[-1].fits:
            break
    plan = plans[-1]
    if not plan.fits:  # then as little as there can be; thinner strips need not be less
        least = [rung for rung in rungs if replace(rung, strips=rungs[-1].strips) == rungs[-1]]
        plan = min([*plans, *map(describe, least)], key=lambda plan: plan.peak)
    rates = _rates(device, dtype, plan.flops, seconds)
    return plan if rates is None else replace(plan, phases=tuple(_timed(phase, rates) for phase in plan.phases))


def ladder(shape: RunShape, tile: tuple[int, int] | None = None) -> Iterator[Measures]:
    """Measures in the order of what they cost, with the same tiles or none. All others keep the pixels.

    Slicing is left out where there is one video, and splitting where there is no guidance: they would do nothing.
    """
    splits = (False, True) if shape.guided else (False,)
    slices = (False, True) if shape.num_videos > 1 else (False,)
    for strips, offload, split, slicing in product((1, *STRIPS), (False, True), splits, slices):
        yield Measures(offload=offload, split_guidance=split, slicing=slicing, strips=strips, tile=tile)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_here(device: torch.device) -> bool:
    """Whether this machine has such a device; plans are made for others too."""
    if device.type == "cuda":
        return torch.cuda.is_available()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def total_memory(device: torch.device) -> int:
    """Bytes that a device has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


def what_would_fit(
    variant: Variant, plan: Plan, *, device: torch.device, dtype: torch.dtype, text_dtype: torch.dtype
) -> str:
    """One sentence for a plan that does not fit: how much it lacks, and the nearest smaller video that would fit."""
    lacking = f"this run needs {format_memory(plan.peak)} and may hold {format_memory(plan.budget)}"

    def fits(smaller: RunShape) -> bool:
        phases = _phases(variant, smaller, plan.measures, device, dtype, text_dtype, plan.in_memory)
        return all(phase.memory <= plan.budget for phase in phases)

    if max(phase.weights for phase in plan.phases) < plan.budget:
        candidates = _smaller(variant, plan.shape)
        first = bisect_left(candidates, True, key=fits)
        if first < len(candidates):
            size = candidates[first].geometry
            return f"{lacking}; one video of {size.num_frames} frames of {size.width}x{size.height} would fit"
    return f"{lacking}; no smaller video of {variant.name} fits either: give it more memory or take a smaller model"


def _phases(
    variant: Variant,
    shape: RunShape,
    measures: Measures,
    device: torch.device,
    dtype: torch.dtype,
    text_dtype: torch.dtype,
    in_memory: InMemory,
) -> Iterator[Phase]:
    size = shape.geometry
    parts: dict[PhaseName, Part] = {}
    if shape.num_prompts:
        parts["prompt"] = measure_text(variant, shape.num_prompts + shape.guided, text_dtype, device)
    if shape.source != "none":
        length = 1 if shape.source == "image" else size.num_frames
        parts["source"] = measure_encoding(variant, size, length, measures.strips, measures.tile, dtype, device)
    parts["steps"] = measure_steps(
        variant,
        size,
        shape.num_videos,
        shape.guided,
        measures.split_guidance,
        shape.steps,
        shape.quantize,
        dtype,
        device,
    )
    groups = shape.num_videos if measures.slicing else 1
    batch = shape.num_videos // groups
    decoding = measure_decoding(variant, size, batch, measures.strips, measures.tile, dtype, device)
    parts["decode"] = replace(decoding, work=decoding.work * groups)

    weights = {_WORKS[name]: part.weights for name, part in parts.items()}
    worked: set[str] = set()
    read = 0  # of a VAE that stays in its file
    for name, part in parts.items():
        network = _WORKS[name]
        worked.add(network)
        there = {network} | in_memory.kept if measures.offload else worked | in_memory.loaded
        alive = part.alive
        if network == "vae" and in_memory.vae_in_file and network not in in_memory.loaded:
            read = part.working + (0 if measures.offload else read)
            weights["vae"] = read
            alive -= part.unread
        held = sum(size for each, size in weights.items() if each in there)
        frames = _frames_bytes(variant, shape, name, device)
        libraries = library_bytes(worked) if device.type == "cpu" and not in_memory.warm else 0
        memory = held + alive + _sampling_bytes(variant, shape, name, dtype) + frames + libraries
        yield Phase(name=name, memory=memory, weights=held, work=part.work, seconds=None)


def _sampling_bytes(variant: Variant, shape: RunShape, phase: PhaseName, dtype: torch.dtype) -> int:
    """What a run holds beside its networks and what they compute: states, and what the transformer is told."""
    size, config = shape.geometry, variant.transformer
    state = config.out_channels * size.latent_frames * size.rows * size.columns * torch.float32.itemsize
    text = config.text_tokens * config.text_width * dtype.itemsize * (2 if shape.guided else 1)
    return shape.num_videos * (STATES[phase] * state + text)


def _frames_bytes(variant: Variant, shape: RunShape, phase: PhaseName, device: torch.device) -> int:
    """Frames as uint8, where the device's memory is the host's: those of a video to begin from, and of the result."""
    if device.type not in SHARED_MEMORY:
        return 0
    size = shape.geometry
    clip = decoded_frames(size.num_frames, variant.vae.temporal_stride) * size.height * size.width * 3
    return clip * ((shape.source == "video") + (shape.num_videos if phase == "decode" else 0))


def _baseline(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) if is_here(device) else 0
    return psutil.Process().memory_info().rss


def _rates(device: torch.device, dtype: torch.dtype, flops: int, wanted: bool | None) -> Rates | None:
    if wanted is False or not is_here(device):
        return None
    long = flops > LONG_FLOPS.get(device.type, LONG_FLOPS["cuda"])
    return calibrate(device, dtype) if wanted or long else remembered_rates(device, dtype)


def _timed(phase: Phase, rates: Rates) -> Phase:
    return replace(phase, seconds=rates.seconds(phase.work))


def _smaller(variant: Variant, shape: RunShape) -> list[RunShape]:
    """One video, with fewer frames and smaller pictures: the largest first."""
    size, stride = shape.geometry, variant.vae.temporal_stride
    sizes = [size] if shape.num_videos > 1 else []
    if variant.transformer.position_table != "learned":  # that one has one size and one length
        cycle, unit = 2 * stride, variant.vae.spatial_stride * max(variant.transformer.patch_size[1:])
        counts = {size.num_frames, size.num_frames // 2 // cycle * cycle + 1, cycle + 1}
        for share, frames in product((1.0, 0.7, 0.5, 0.25), counts):
            height, width = (max(round(side * share / unit), 1) * unit for side in (size.height, size.width))
            if frames <= size.num_frames and (share < 1 or frames < size.num_frames):
                sizes.append(geometry(variant, height, width, frames))
    sizes.sort(key=lambda size: size.num_frames * size.height * size.width, reverse=True)
    return [replace(shape, geometry=size, num_videos=1, num_prompts=min(shape.num_prompts, 1)) for size in sizes]
