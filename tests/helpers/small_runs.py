"""Runs of a second: a model small enough, its recipes, and a program that kills them."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import select
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogworks.config.recipe import Recipe, parse_recipe
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.rng import generator_for
from cogworks.training.clips.batches import Batch
from cogworks.training.run import train
from cogworks.training.safety.checkpoints import step_files, step_of
from cogworks.training.transformer.module import TransformerModule
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_variant
from cogworks.weights.save import save_pretrained
from cogworks.weights.source import resolve


def save_small_model(folder: Path) -> Path:
    """A model like the bundled one, with a transformer of 20,000 weights and a small VAE, both random."""
    bundled = resolve("tiny")
    tiny = load_variant(bundled)
    variant = replace(
        tiny,
        transformer=replace(
            tiny.transformer, num_layers=1, num_heads=2, head_width=16, in_channels=4, out_channels=4, time_width=16
        ),
        vae=replace(tiny.vae, widths=(4, 4, 4, 4), latent_channels=4, norm_groups=2),
    )
    transformer = Transformer(variant.transformer)
    transformer.initialise(generator_for("small"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VAE(variant.vae)
        for parameter in transformer.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    save_pretrained(
        folder,
        variant,
        transformer=transformer,
        vae=vae,
        text_encoder=load_text_encoder(bundled, tiny),
        tokenizer=load_tokenizer(bundled),
    )
    return folder


def small_recipe(model: Path, output: Path, **values: Any) -> Recipe:
    """Eight steps of two clips, with a checkpoint after each."""
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": str(model),
        "output": str(output),
        "steps": 8,
        "batch_size": 2,
        "threads": 1,
        "log_every": 1,
        "optimizer": {"learning_rate": 0.01},
        "learning_rate": {"warmup_steps": 2},
        "checkpoints": {"minutes": 1e-9},
        "data": {"kind": "shapes", "size": 16, "frames": 5},
        **values,
    }
    return parse_recipe(complete, "test")


def state_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All of a checkpoint that later steps depend on, by flat names."""
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "RunData")
    parts = {name: checkpoint[name] for name in names if name in checkpoint}
    parts["callbacks"] = {name: checkpoint["callbacks"].get(name) for name in ("Sentinel", "WeightAveraging")}
    parts["step"] = checkpoint["global_step"]
    return _flat(parts)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two states are equal in every bit."""
    return left.keys() == right.keys() and all(_equal(value, right[name]) for name, value in left.items())


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    return bool(left == right)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        found = [_flat(each, f"{name}.{key}") for key, each in value.items()]
    elif isinstance(value, list | tuple):
        found = [_flat(each, f"{name}.{index}") for index, each in enumerate(value)]
    else:
        return {name: value}
    return {key: each for part in found for key, each in part.items()}


def run_and_kill(
    values: dict[str, Any], replicas: int, seed: int, kills: int, spoiled: int | None = None
) -> dict[str, Any]:
    """Run a recipe in processes of its own, kill -9 one of them at random moments, and start it again until it ends.

    The processes are forked from this one, which has imported all they need.

    Args:
        spoiled: the number of a batch whose loss is not a number, on the last replica.

    Returns:
        how many legs were killed, how many of those left a checkpoint half written, and where the next ones began.
    """
    draws = random.Random(seed)
    recipe = parse_recipe(values, "test")
    folder = recipe.output / "checkpoints"
    if spoiled is not None:
        _spoil(spoiled, replicas - 1)
    steps = sorted(draws.sample(range(recipe.steps - 2), kills))
    half_written, resumed_at = 0, []
    for step in steps:
        leg = Leg(recipe, replicas)
        while _newest(folder) < step and leg.runs:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.05))
        if not leg.runs:  # a fast machine came to the end before the moment
            leg.finish()
            break
        leg.kill(draws.randrange(replicas))
        half_written += any(folder.glob(".*.tmp"))
        resumed_at.append(max((path.name for path in folder.glob("step*.ckpt")), default=None))
    Leg(recipe, replicas).finish()
    return {"killed": len(resumed_at), "half_written": half_written, "resumed_at": resumed_at}


def _newest(folder: Path) -> int:
    """The steps of the newest checkpoint; 0 where there is none."""
    return max(map(step_of, step_files(folder)), default=0)


def _spoil(number: int, last: int) -> None:
    losses = TransformerModule.losses

    def spoiled(self: TransformerModule, batch: Batch, replica: int = 0, replicas: int = 1) -> tuple[Tensor, Tensor]:
        found, positions = losses(self, batch, replica, replicas)
        return (found * math.nan if (batch.number, replica) == (number, last) else found), positions

    TransformerModule.losses = spoiled  # type: ignore[method-assign]


class Leg:
    """One start of a run. The first process starts the others, as Lightning's launcher does."""

    def __init__(self, recipe: Recipe, replicas: int) -> None:
        context = multiprocessing.get_context("fork")
        # Every process of the leg holds the writing end until it ends, so that the reading end tells of the last.
        self.reader, writer = os.pipe()
        numbers, sender = context.Pipe(duplex=False)
        self.first = context.Process(target=_first, args=(recipe, replicas, _free_port(), sender))
        self.first.start()
        os.close(writer)
        self.processes: list[int] = numbers.recv()

    @property
    def runs(self) -> bool:
        return self.first.is_alive()

    def kill(self, replica: int) -> None:
        """Kill one process; the others must end then."""
        os.kill(self.processes[replica], signal.SIGKILL)
        if replica > 0:
            # Before the processes know each other, it is Lightning's observer that ends the first.
            self.first.join(20)
            self.first.kill()
        self._all_gone()

    def finish(self) -> None:
        """Let the leg run to its end."""
        self._all_gone()
        if self.first.exitcode != 0:
            raise RuntimeError(f"the run ended with {self.first.exitcode}")

    def _all_gone(self) -> None:
        if not select.select([self.reader], [], [], 240)[0]:
            raise TimeoutError("a process outlived the others")
        os.close(self.reader)
        self.first.join()


def _first(recipe: Recipe, replicas: int, port: int, sender: Any) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_process, args=(recipe, rank, replicas, port)) for rank in range(1, replicas)]
    for other in others:
        other.start()
    sender.send([os.getpid(), *(other.pid for other in others)])
    _process(recipe, 0, replicas, port)


def _process(recipe: Recipe, rank: int, replicas: int, port: int) -> None:
    if replicas > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(replicas))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(recipe)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        print(json.dumps(run_and_kill(**job)))
