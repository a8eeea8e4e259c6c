"""Transformers beside diffusers': the bundled model's, also against the compiled rival, and published blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from measure import Settings, alternate, check_equal, make_case, seconds_of, tell
from results import Case, Mark
from rival_transformers import (
    TransformerInputs,
    TransformerPair,
    block_calls,
    prepared_step,
    run_ours,
    runner_of_theirs,
    tiny_transformers,
    transformer_inputs,
    transformer_pair,
)

from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import COGVIDEOX_2B, COGVIDEOX_5B

TINY_SIZE = (5, 8, 8)  # latents of 17 frames of 64x64
PUBLISHED_TEXT = 226
BLOCK_SIZE = (1, 60, 90)  # latents of one frame of 480x720: 1350 tokens
FORWARD = Mark(at_least=1.3)
COMPILED = Mark(at_least=1.0)
BLOCK = Mark(at_least=0.97, aim=1.05)


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """All cases; compiled rivals and the wider blocks are left out of the quick set."""
    pair = tiny_transformers()
    for text_tokens in (pair.config.text_tokens, PUBLISHED_TEXT):
        inputs = transformer_inputs(
            pair.config, TINY_SIZE, batch=2, seed=settings.seed, text_tokens=text_tokens, same_latents=True
        )
        name, what = f"tiny-{text_tokens}", f"`tiny`, {text_tokens} text tokens"
        yield forward(pair, inputs, settings, name, what, FORWARD)
        yield step_of_a_run(pair, inputs, settings, name, what, FORWARD)
        if settings.compiles:
            yield from against_compiled(pair, inputs, settings, name, what)
    del pair
    for variant, batches in ((COGVIDEOX_2B, (1, 2)), (COGVIDEOX_5B, (1,))):
        shown = variant.name.rpartition("-")[2].upper()
        pair = transformer_pair(two_blocks(variant.transformer), settings.seed)
        for batch in batches[:1] if settings.quick else batches:
            inputs = transformer_inputs(pair.config, BLOCK_SIZE, batch=batch, seed=settings.seed, same_latents=True)
            yield block(pair, inputs, settings, f"block-{shown.lower()}-{batch}", f"{shown} block, batch {batch}")
        if settings.quick:
            return


def two_blocks(config: TransformerConfig) -> TransformerConfig:
    """The published widths on the grid that is measured. The first block is measured: the last one spares the text."""
    return replace(config, num_layers=2, sample_frames=1)


def forward(
    pair: TransformerPair,
    inputs: TransformerInputs,
    settings: Settings,
    name: str,
    what: str,
    mark: Mark | None = None,
) -> Case:
    """A whole pass, eager on both sides."""
    title = f"transformer forward, guidance batch: {what}"
    return _eager(pair, inputs, partial(run_ours, pair.ours, inputs), settings, name, title, mark)


def step_of_a_run(
    pair: TransformerPair,
    inputs: TransformerInputs,
    settings: Settings,
    name: str,
    what: str,
    mark: Mark | None = None,
) -> Case:
    """A pass as each step of a run makes it: what the prompt and the timesteps alone decide was computed before.

    The rival's pipeline computes all of it in every step.
    """
    title = f"transformer in a step of a run, guidance batch: {what}"
    return _eager(pair, inputs, prepared_step(pair, inputs), settings, f"{name}-step", title, mark)


def _eager(
    pair: TransformerPair,
    inputs: TransformerInputs,
    ours: Callable[[], torch.Tensor],
    settings: Settings,
    name: str,
    title: str,
    mark: Mark | None,
) -> Case:
    theirs = runner_of_theirs(pair.theirs, inputs)
    equality = check_equal(ours(), theirs().transpose(1, 2))
    # A pass of `tiny` takes a twentieth of a second: more rounds cost nothing.
    times = alternate(ours, theirs, rounds=3 * settings.rounds, clock=settings.clock)
    return make_case(
        name,
        title,
        times.ours,
        times.theirs,
        mark=mark,
        equality=equality,
        shapes=inputs.shapes,
        seed=settings.seed,
    )


def against_compiled(
    pair: TransformerPair,
    inputs: TransformerInputs,
    settings: Settings,
    name: str,
    what: str,
) -> Iterator[Case]:
    """A whole pass, and one as in a step of a run: eager here, compiled there. What compiling took stands beside."""
    torch.compiler.reset()
    compiled, seconds, first = compile_theirs(pair, inputs)
    for ours, suffix, kind in (
        (partial(run_ours, pair.ours, inputs), "compiled", "forward"),
        (prepared_step(pair, inputs), "compiled-step", "in a step of a run"),
    ):
        equality = check_equal(ours(), first.transpose(1, 2))
        times = alternate(ours, compiled, rounds=3 * settings.rounds, clock=settings.clock)
        yield make_case(
            f"{name}-{suffix}",
            f"transformer {kind}, eager against compiled: {what}",
            times.ours,
            times.theirs,
            rival="diffusers compiled",
            mark=COMPILED,
            equality=equality,
            shapes=inputs.shapes,
            seed=settings.seed,
            notes={"compile seconds of diffusers": round(seconds, 1), "compile mode": "default, fullgraph"},
        )


def compile_theirs(pair: TransformerPair, inputs: TransformerInputs) -> tuple[Any, float, torch.Tensor]:
    """Their call compiled, the seconds on the wall until its first result, and that result."""
    network = torch.compile(pair.theirs, fullgraph=True)
    call = runner_of_theirs(network, inputs)
    start = time.perf_counter()
    first = call()
    seconds = time.perf_counter() - start
    tell(f"diffusers compiled in {seconds:.0f} s")
    return call, seconds, first


def block(pair: TransformerPair, inputs: TransformerInputs, settings: Settings, name: str, what: str) -> Case:
    """One block alone."""
    calls = block_calls(pair, inputs)
    equality = check_equal(calls.ours(), calls.theirs())
    rounds = settings.rounds if seconds_of(calls.ours, settings.clock) < 1 else settings.few
    times = alternate(calls.ours, calls.theirs, rounds=rounds, clock=settings.clock)
    tokens = inputs.text_emb.shape[1], calls.ours().shape[1] - inputs.text_emb.shape[1]
    return make_case(
        name,
        f"transformer block: {what}, {tokens[0]} + {tokens[1]} tokens",
        times.ours,
        times.theirs,
        mark=BLOCK,
        equality=equality,
        shapes=inputs.shapes,
        seed=settings.seed,
    )
