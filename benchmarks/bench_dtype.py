"""A bfloat16 checkpoint on a CPU without units for it: float32 here, chosen and announced; bfloat16 in diffusers.

Diffusers in float32, with the same weights, says which of the two is nearer to the truth.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measure import Settings, Unequal, alternate, check_equal, make_case, tell
from results import Case, Mark
from rival_pipelines import ask, generate_ours, generate_theirs, open_both, save_variant
from rival_transformers import transformer_pair
from rival_vaes import vae_pair

from cogworks.config.variants import COGVIDEOX_5B, TINY, Variant
from cogworks.pipelines.load import compute_dtype
from cogworks.weights.source import resolve

# A transformer of published shapes with few blocks and steps, and a VAE of few channels: emulated convolutions take 40
# times as long, and a run has to take seconds.
SMALL_5B = replace(
    TINY,
    name="small-5b",
    dtype="bfloat16",
    transformer=replace(
        COGVIDEOX_5B.transformer, num_layers=2, num_heads=12, text_width=128, sample_size=(8, 8), sample_frames=9
    ),
    vae=replace(COGVIDEOX_5B.vae, widths=(8, 8, 16, 16), layers_per_block=1, norm_groups=2, sample_size=(128, 128)),
    # Not the published sampler of 5B, which draws noise in every step.
    defaults=replace(COGVIDEOX_5B.defaults, height=64, width=64, num_frames=9, steps=2, sampler="ddim"),
)
PROMPT = "a red circle moves right"
SPEED, NEARER = Mark(at_least=3.0), Mark(at_most=1.0)


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """Nothing where the CPU has the units: both compute the checkpoint as it is there."""
    if compute_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16:
        raise Unequal("this CPU computes bfloat16 itself: there is no choice to measure; leave `dtype` out")
    with tempfile.TemporaryDirectory() as folder:
        yield from compared(save_bfloat16(SMALL_5B, Path(folder) / "model", settings.seed), settings)


def save_bfloat16(variant: Variant, folder: Path, seed: int) -> Path:
    """A folder with random weights in bfloat16, and the text encoder of the bundled model."""
    transformer = transformer_pair(variant.transformer, seed).ours.to(torch.bfloat16)
    vae = vae_pair(variant.vae, seed).ours.to(torch.bfloat16)
    return save_variant(folder, variant, transformer, vae, resolve("tiny"))


def compared(folder: Path, settings: Settings) -> Iterator[Case]:
    """Time, and distance to diffusers in float32; ours is as close to that as in any other benchmark."""
    announced = _Heard()
    logging.getLogger("cogworks").addHandler(announced)
    logging.getLogger("cogworks").setLevel(logging.INFO)
    pair = open_both(folder, their_dtype=torch.bfloat16)
    if pair.ours.components.dtype != torch.float32 or not announced.lines:
        raise Unequal("float32 was not chosen, or not announced")
    asked = ask(pair.ours.variant, settings.seed, PROMPT)
    ours, theirs = partial(generate_ours, pair.ours, asked), partial(generate_theirs, pair.theirs, asked)
    exact = generate_theirs(open_both(folder).theirs, asked)
    mine, rounded = ours(), theirs().float()
    equality = check_equal(mine, exact)
    shapes = {"latents": tuple(asked.latents.shape)}
    errors = [(each - exact).double().square().mean().sqrt().item() for each in (mine, rounded)]
    yield make_case(
        "bf16-error",
        "a bfloat16 checkpoint on this CPU: error of the pixels beside diffusers in float32",
        [errors[0]],
        [errors[1]],
        unit="error",
        figure="ours / theirs",
        rival="diffusers in bfloat16",
        mark=NEARER,
        equality=equality,
        shapes=shapes,
        seed=settings.seed,
        notes={"announced": announced.lines[0]},
    )
    times = alternate(ours, theirs, rounds=settings.few, clock=settings.clock)
    yield make_case(
        "bf16-time",
        f"a bfloat16 checkpoint on this CPU: whole pipeline, {asked.steps} steps",
        times.ours,
        times.theirs,
        rival="diffusers in bfloat16",
        mark=SPEED,
        equality=equality,
        shapes=shapes,
        seed=settings.seed,
    )


class _Heard(logging.Handler):
    """What was logged of the choice."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "computing in" in record.getMessage():
            self.lines.append(record.getMessage())
            tell(self.lines[-1])
