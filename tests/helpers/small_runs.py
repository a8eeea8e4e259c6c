"""Runs of a second: a model small enough, its recipes, and a program that kills them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cogworks.config.recipe import Recipe, parse_recipe
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.rng import generator_for
from cogworks.training.run import train
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_variant
from cogworks.weights.save import save_pretrained
from cogworks.weights.source import resolve

Schedule = list[tuple[float, int]]


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


def run_and_kill(values: dict[str, Any], replicas: int, seed: int, kills: int) -> dict[str, Any]:
    """Run a recipe in processes of its own, kill -9 one of them at random moments, and start it again until it ends.

    The processes are forked from this one, which has imported all they need.

    Returns:
        how many legs were killed, and how many of those left a checkpoint half written.
    """
    draws = random.Random(seed)
    recipe = parse_recipe(values, "test")
    context = multiprocessing.get_context("fork")
    report = {"killed": 0, "half_written": 0, "resumed_at": []}
    length = None
    while True:
        port = _free_port()
        legs = [context.Process(target=_leg, args=(recipe, rank, replicas, port)) for rank in range(replicas)]
        began = time.monotonic()
        for leg in legs:
            leg.start()
        if report["killed"] < kills:
            legs[0].join(draws.uniform(0.3, 3.0) if length is None else draws.uniform(0.2, 0.8) * length)
            victim = draws.choice(legs)
            if victim.is_alive():
                os.kill(victim.pid, signal.SIGKILL)
                report["killed"] += 1
        for leg in legs:
            leg.join(60)
        if any(leg.is_alive() for leg in legs):
            for leg in legs:
                leg.kill()
            raise TimeoutError("a process outlived the others")
        folder = recipe.output / "checkpoints"
        report["half_written"] += any(folder.glob(".*.tmp"))
        report["resumed_at"].append(max((path.name for path in folder.glob("step*.ckpt")), default=None))
        if all(leg.exitcode == 0 for leg in legs):
            report["seconds"] = time.monotonic() - began
            return report


def _leg(recipe: Recipe, rank: int, replicas: int, port: int) -> None:
    """One process of a run, as Lightning's launcher would start it."""
    if replicas > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(replicas))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(recipe)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    print(json.dumps(run_and_kill(**json.loads(sys.argv[1]))))
