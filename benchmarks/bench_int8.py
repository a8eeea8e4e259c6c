"""Eight bits beside float32, both ours: a block of 2B width in time, the bundled model in pixels and in bytes.

Approximate, so that nothing is equal here: each case says how large the error is.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import torch
from bench_transformer import BLOCK_SIZE, two_blocks
from measure import Settings, alternate, make_case
from results import Case, Mark
from rival_pipelines import ask, generate_ours
from rival_transformers import block_call_of_ours, transformer_inputs
from rival_weights import drawing, perturb
from torch import Tensor

import cogworks
from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import COGVIDEOX_2B
from cogworks.extensions.attach import attach
from cogworks.extensions.int8_products import Int8Products, why_not_integers
from cogworks.models.transformer import Transformer

FASTER = Mark(at_least=1.8)
PROMPT = "a red circle moves right"


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """All cases, one kind of pixels in the quick set; without units for int8 there is no mark for the block."""
    yield block(two_blocks(COGVIDEOX_2B.transformer), BLOCK_SIZE, settings)
    for quantize in ("int8",) if settings.quick else ("int8", "int8-weights"):
        yield pixels(quantize, settings)


def block(config: TransformerConfig, size: tuple[int, int, int], settings: Settings) -> Case:
    """Seconds of one block with `Int8Products` against the same block in float32."""
    with drawing(settings.seed):
        plain = Transformer(config).eval()
        perturb(plain)
    packed = deepcopy(plain)
    attach(packed, Int8Products())
    inputs = transformer_inputs(config, size, batch=1, seed=settings.seed)
    exact, rounded = block_call_of_ours(plain, inputs), block_call_of_ours(packed, inputs)
    error = relative(rounded(), exact())
    times = alternate(rounded, exact, rounds=settings.few, clock=settings.clock)
    lacking = why_not_integers("cpu")
    return make_case(
        "block-2b",
        "transformer block at 2B width, 8-bit tokens and weights",
        times.ours,
        times.theirs,
        rival="ours in float32",
        mark=None if lacking else FASTER,
        dtype="int8",
        shapes=inputs.shapes,
        seed=settings.seed,
        notes={"relative error": error, **({"no units for it": lacking} if lacking else {})},
    )


def pixels(quantize: str, settings: Settings, steps: int | None = None) -> Case:
    """The root mean square that pixels of `tiny`, in [0, 1], are off after a whole run from the same latents."""
    exact = cogworks.load("tiny", device="cpu")
    packed = cogworks.load("tiny", device="cpu", quantize=quantize)  # type: ignore[arg-type]
    asked = ask(exact.variant, settings.seed, PROMPT, steps)
    plain, rounded = (partial(generate_ours, pipe, asked)() for pipe in (exact, packed))
    held = [pipe.components.networks.transformer.form.num_bytes for pipe in (packed, exact)]
    return make_case(
        f"tiny-{quantize}",
        f"error of the pixels of `tiny` with --quantize {quantize}",
        [(rounded - plain).square().mean().sqrt().item()],
        unit="error",
        figure="ours",
        rival="",
        dtype=quantize,
        shapes={"latents": tuple(asked.latents.shape)},
        seed=settings.seed,
        notes={"largest error": (rounded - plain).abs().max().item(), "weights, of float32": held[0] / held[1]},
    )


def relative(rounded: Tensor, exact: Tensor) -> float:
    """The root mean square of the difference, relative to that of `exact`."""
    return ((rounded - exact).square().mean() / exact.square().mean()).sqrt().item()
