"""How much less the loss of a batch varies when its timesteps are drawn spread: parallel uniform sampling measured.

The bundled model's weights stay fixed. Batches of rendered Shapes clips are encoded, noised at timesteps that are drawn
independently or spread, and their mean loss is taken; both draws see the same clips and the same noise. Reported is the
standard deviation of that mean over many batches, and what it should be by the losses of all samples together, which is
known more precisely: sqrt(variance / B), where the variance is that within a stretch if timesteps are spread.

    python benchmarks/loss_variance.py                       # a table
    python benchmarks/loss_variance.py --samples 600 --json  # quicker, for programs
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

import cogworks
from cogworks.data.shapes import render
from cogworks.diffusion.edm import noise_schedule
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.prediction import add_noise, network_input
from cogworks.diffusion.timesteps import Draw, draw_positions
from cogworks.pipelines.generate import Pipeline
from cogworks.rng import generator_for

DRAWS: tuple[Draw, ...] = ("independent", "spread")


@dataclass(frozen=True)
class Result:
    """Mean losses of `count` batches under one way to draw.

    Attributes:
        deviation, error: the standard deviation of the mean loss, and its own relative standard error.
        expected: the standard deviation by the losses of all samples.
    """

    batch: int
    draw: Draw
    count: int
    mean: float
    deviation: float
    error: float
    expected: float


class Losses(NamedTuple):
    """Of `count` batches: positions of the noise levels and losses, (count, B)."""

    positions: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Clips:
    """Latents (N, C, t, h, w) of the diffusion process and text embeddings (N, M, D)."""

    latents: Tensor
    text_emb: Tensor


def read_clips(pipe: Pipeline, count: int, seed: int) -> Clips:
    """The first training clips of the Shapes world, at the model's own size, as posterior means."""
    defaults, vae = pipe.variant.defaults, pipe.components.vae
    latents, captions = [], []
    for index in range(count):
        frames, caption = render(seed, index, defaults.height, defaults.num_frames, defaults.fps)
        pixels = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> 1 c t h w").float() / 127.5 - 1
        latents.append(vae.to_diffusion(vae.encode(pixels).mode()))
        captions.append(caption)
        tell(f"clip {index + 1} of {count}")
    text = pipe.prompts.branches(captions, None, None, None, guided=False).text
    return Clips(torch.cat(latents), text)


def losses_of(pipe: Pipeline, clips: Clips, batch: int, number: int, draw: Draw, seed: int) -> tuple[Tensor, Tensor]:
    """(B,) positions and losses of batch `number`. Clips and noise are the same for every `draw`."""
    schedule, kind = noise_schedule(pipe.variant.schedule), pipe.variant.schedule.prediction
    chosen = torch.randperm(len(clips.latents), generator=generator_for(seed, "clips", batch, number))[:batch]
    x0, text_emb = clips.latents[chosen], clips.text_emb[chosen]
    noise = torch.randn(x0.shape, generator=generator_for(seed, "noise", batch, number))
    positions = draw_positions(batch, generator_for(seed, draw, batch, number), draw=draw)
    timesteps = schedule.timesteps_at(positions)
    alpha, sigma = schedule.levels(timesteps)
    shown = network_input(add_noise(x0, noise, alpha, sigma), kind, alpha, sigma)
    prediction = pipe.components.transformer(shown, timesteps, text_emb)
    return positions, diffusion_loss(prediction, x0, noise, alpha, sigma, kind=kind)


def measure(pipe: Pipeline, clips: Clips, batch: int, draw: Draw, samples: int, seed: int) -> Losses:
    found = []
    for number in range(samples // batch):
        found.append(losses_of(pipe, clips, batch, number, draw, seed))
        tell(f"batch of {batch}, {draw}: {number + 1} of {samples // batch}")
    positions, losses = (torch.stack(each).double().numpy() for each in zip(*found, strict=True))
    return Losses(positions, losses)


def summarise(batch: int, draw: Draw, measured: Losses, everything: Losses) -> Result:
    means = measured.losses.mean(axis=1)
    squares = (means - means.mean()) ** 2
    # Of a variance, from the spread of the squared distances; of its root, half that.
    error = squares.std(ddof=1) / squares.mean() / len(means) ** 0.5 / 2
    stretches = batch if draw == "spread" else 1
    places = np.minimum(everything.positions * stretches, stretches - 1).astype(int)
    within = np.mean([everything.losses[places == stretch].var(ddof=1) for stretch in range(stretches)])
    return Result(
        batch=batch,
        draw=draw,
        count=len(means),
        mean=float(means.mean()),
        deviation=float(means.std(ddof=1)),
        error=float(error),
        expected=float((within / batch) ** 0.5),
    )


def tell(text: str) -> None:
    """Progress, in one line of stderr where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(results: list[Result]) -> str:
    """Variances beside that of independent draws, as expected."""
    lines = [
        f"{'batch':>5}  {'timesteps':<12}{'batches':>8}{'mean loss':>11}"
        f"{'deviation':>19}{'expected':>10}{'variance':>10}"
    ]
    for result in results:
        plain = next(each for each in results if each.batch == result.batch and each.draw == "independent")
        ratio = (result.expected / plain.expected) ** 2
        deviation = f"{result.deviation:.4f} +- {result.deviation * result.error:.4f}"
        lines.append(
            f"{result.batch:>5}  {result.draw:<12}{result.count:>8}{result.mean:>11.4f}{deviation:>19}"
            f"{result.expected:>10.4f}{ratio:>10.2f}"
        )
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a text-to-video model of the Shapes world")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="batch sizes")
    parser.add_argument("--samples", type=int, default=2400, help="samples for each batch size and draw")
    parser.add_argument("--clips", type=int, default=256, help="clips that batches are taken from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.samples < 4 * max(options.batches) or options.clips < max(options.batches):
        parser.error("too few samples or clips: at least four batches of samples, and one batch of clips")
    started = time.monotonic()
    pipe = cogworks.load(options.model)
    clips = read_clips(pipe, options.clips, options.seed)
    measured = {
        (batch, draw): measure(pipe, clips, batch, draw, options.samples, options.seed)
        for batch in options.batches
        for draw in DRAWS
    }
    everything = Losses(
        *(np.concatenate([each.ravel() for each in part]) for part in zip(*measured.values(), strict=True))
    )
    results = [summarise(batch, draw, found, everything) for (batch, draw), found in measured.items()]
    tell("")
    if options.json:
        about = {"model": options.model, "samples": options.samples, "clips": options.clips, "seed": options.seed}
        about["seconds"] = round(time.monotonic() - started, 1)
        print(json.dumps({**about, "results": [asdict(each) for each in results]}, indent=2))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
