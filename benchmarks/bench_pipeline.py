"""Whole pipelines beside diffusers': a prompt in, frames out, warm, from the same latents, with nothing remembered."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from measure import Settings, alternate, check_equal, make_case
from results import Case, Mark
from rival_pipelines import PipelinePair, ask, generate_ours, generate_theirs, open_both, save_longer_text

PROMPT = "a red circle moves right on a black background"
PUBLISHED_TEXT = 226
OWN_LENGTH, LONG = Mark(at_least=1.9, aim=2.5), Mark(at_least=1.6)


@torch.no_grad()
def cases(settings: Settings) -> Iterator[Case]:
    """The bundled model at its own text length and at that of the published ones."""
    own = open_both("tiny")
    tokens = own.ours.variant.transformer.text_tokens
    yield whole(own, settings, f"tiny-{tokens}", OWN_LENGTH)
    del own
    with tempfile.TemporaryDirectory() as folder:
        longer = open_both(save_longer_text(Path(folder) / "longer", PUBLISHED_TEXT))
        yield whole(longer, settings, f"tiny-{PUBLISHED_TEXT}", LONG)


def whole(pair: PipelinePair, settings: Settings, name: str, mark: Mark | None, steps: int | None = None) -> Case:
    """One video of the variant's own size."""
    variant = pair.ours.variant
    asked = ask(variant, settings.seed, PROMPT, steps)
    ours, theirs = partial(generate_ours, pair.ours, asked), partial(generate_theirs, pair.theirs, asked)
    equality = check_equal(ours(), theirs())
    times = alternate(ours, theirs, rounds=settings.rounds, clock=settings.clock)
    tokens = variant.transformer.text_tokens
    return make_case(
        name,
        f"whole pipeline at `tiny`'s size, {asked.steps} steps, {tokens} text tokens",
        times.ours,
        times.theirs,
        mark=mark,
        equality=equality,
        shapes={
            "latents": tuple(asked.latents.shape),
            "frames": (1, asked.num_frames, 3, asked.height, asked.width),
            "text_emb": (2, tokens, variant.transformer.text_width),
        },
        seed=settings.seed,
    )
