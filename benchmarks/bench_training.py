"""Training steps beside diffusers': forward, backward and the same AdamW; time, and peak memory in fresh processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import fresh
import torch
from bench_transformer import TINY_SIZE
from measure import Equality, Settings, Unequal, alternate, check_equal, make_case, peak_of
from results import Case, Mark
from rival_transformers import (
    TransformerInputs,
    TransformerPair,
    gradients_of_theirs,
    run_ours,
    runner_of_theirs,
    tiny_transformers,
    transformer_inputs,
    transformer_pair,
)
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import COGVIDEOX_2B

Side = Literal["ours", "theirs"]
LEARNING_RATE = 1e-5
PROCESSES = 7
TINY_STEP, WIDE_STEP, MEMORY = Mark(at_least=1.1, aim=1.2), Mark(at_least=1.0), Mark(at_most=1.0)
TWO_BLOCKS = replace(COGVIDEOX_2B.transformer, num_layers=2, sample_frames=1, sample_size=(30, 46))
WIDE_SIZE = (1, 30, 46)  # latents of 240x368: 345 tokens
SMALLEST = (1, 2, 2)


@dataclass(frozen=True)
class Job:
    """What is trained: the bundled model (`config` None) or random weights, on a batch."""

    name: str
    what: str
    config: TransformerConfig | None
    batch: int
    size: tuple[int, int, int]
    mark: Mark


TINY = Job("tiny", "`tiny`, batch 16", None, 16, TINY_SIZE, TINY_STEP)
WIDE = Job("2b-blocks", "two blocks at 2B width", TWO_BLOCKS, 1, WIDE_SIZE, WIDE_STEP)
JOBS = {job.name: job for job in (TINY, WIDE)}


def cases(settings: Settings) -> Iterator[Case]:
    """Peaks and the wide blocks are left out of the quick set."""
    for job in (TINY,) if settings.quick else (TINY, WIDE):
        yield timed(job, settings)
        if not settings.quick:
            yield peak(job, settings)


def timed(job: Job, settings: Settings) -> Case:
    """Seconds of a step, after the gradients of both sides were found to be equal."""
    pair = _pair(job, settings.seed)
    inputs, target = _inputs(pair.config, job.size, job.batch, settings.seed)
    equality = check_gradients(pair, inputs, target)
    ours, theirs = (step_of(pair, inputs, target, side) for side in ("ours", "theirs"))
    rounds = settings.few if job.config else settings.rounds
    times = alternate(ours, theirs, rounds=rounds, clock=settings.clock)
    return make_case(
        f"step-{job.name}",
        f"training step: {job.what}",
        times.ours,
        times.theirs,
        mark=job.mark,
        equality=equality,
        shapes=inputs.shapes,
        seed=settings.seed,
    )


def peak(job: Job, settings: Settings) -> Case:
    """Bytes of two steps above the weights: activations, gradients and the optimizer's state.

    Of seven processes a side: what the allocator keeps scatters by two hundredths.
    """
    asked = [{"job": job.name, "side": side, "seed": settings.seed} for side in ("ours", "theirs")]
    ours, theirs = fresh.call_in_turn(
        "bench_training", "measure_peak", asked, times=PROCESSES, threads=settings.threads
    )
    return make_case(
        f"peak-{job.name}",
        f"peak memory of training above the weights: {job.what}",
        ours,
        theirs,
        unit="B",
        figure="ours / theirs",
        mark=MEMORY,
        allocator="default",
        seed=settings.seed,
    )


def measure_peak(job: str, side: Side, seed: int) -> int:
    """In a process of its own.

    The table of positions counts on both sides: diffusers keeps it among its buffers, we make it at first use.
    """
    asked = JOBS[job]
    pair = _pair(asked, seed)
    config, network = pair.config, _network(pair, side)
    inputs, target = _inputs(config, asked.size, asked.batch, seed)
    smallest, small_target = _inputs(config, SMALLEST, 1, seed)
    forward, small = _forward(pair, inputs, side), _forward(pair, smallest, side)
    del pair

    def warm() -> None:
        F.mse_loss(small(), small_target).backward()
        network.zero_grad(set_to_none=True)

    def train() -> None:
        optimizer = optimizer_of(network)
        for _ in range(2):
            step(forward, target, optimizer)

    return peak_of(train, warm) + sum(buffer.nbytes for buffer in network.buffers())


def check_gradients(pair: TransformerPair, inputs: TransformerInputs, target: Tensor) -> Equality:
    """The gradient of every parameter on both sides, in one comparison; and every one has to be there."""
    for side in ("ours", "theirs"):
        _network(pair, side).zero_grad(set_to_none=True)
        F.mse_loss(_forward(pair, inputs, side)(), target).backward()
    theirs = gradients_of_theirs(pair)
    ours = {name: parameter.grad for name, parameter in pair.ours.named_parameters()}
    if ours.keys() != theirs.keys():
        raise Unequal(f"gradients of other parameters: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    mine, their = (torch.cat([side[name].flatten() for name in ours]) for side in (ours, theirs))  # type: ignore[union-attr]
    return check_equal(mine, their)


def step_of(pair: TransformerPair, inputs: TransformerInputs, target: Tensor, side: Side) -> Callable[[], None]:
    """A training step of one side, with an optimizer of its own."""
    return partial(step, _forward(pair, inputs, side), target, optimizer_of(_network(pair, side)))


def step(forward: Callable[[], Tensor], target: Tensor, optimizer: torch.optim.Optimizer) -> None:
    F.mse_loss(forward(), target).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    """The same on both sides: AdamW, its fused kernel."""
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)


def _pair(job: Job, seed: int) -> TransformerPair:
    pair = tiny_transformers() if job.config is None else transformer_pair(job.config, seed)
    return TransformerPair(pair.ours.train(), pair.theirs.train())


def _inputs(
    config: TransformerConfig, size: tuple[int, int, int], batch: int, seed: int
) -> tuple[TransformerInputs, Tensor]:
    inputs = transformer_inputs(config, size, batch=batch, seed=seed)
    target = torch.randn(inputs.latents.shape, generator=torch.Generator().manual_seed(seed + 1))
    return inputs, target[:, : config.out_channels]


def _network(pair: TransformerPair, side: Side) -> Any:
    return pair.ours if side == "ours" else pair.theirs


def _forward(pair: TransformerPair, inputs: TransformerInputs, side: Side) -> Callable[[], Tensor]:
    if side == "ours":
        return partial(run_ours, pair.ours, inputs)
    call = runner_of_theirs(pair.theirs, inputs)
    return lambda: call().transpose(1, 2)
