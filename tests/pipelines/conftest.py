"""Models for pipelines to run: made once for each process that runs tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cogworks
from cogworks.config.variants import TINY
from cogworks.pipelines.generate import Pipeline
from cogworks.weights.fill import fill
from helpers.random_models import save_random
from helpers.tiny_pipeline import PipelinePair, pipeline_pair

T2V = replace(
    TINY,
    name="small",
    transformer=replace(
        TINY.transformer,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_heads=2,
        head_width=16,
        text_width=32,
        text_tokens=12,
        time_width=16,
        sample_size=(4, 4),
        sample_frames=9,
    ),
    vae=replace(TINY.vae, widths=(4, 4, 4, 4), latent_channels=4),
    text_encoder=replace(TINY.text_encoder, width=32, head_width=16, num_heads=2, num_layers=1, mlp_width=32),
    defaults=replace(TINY.defaults, height=32, width=32, num_frames=9, steps=3),
)
I2V = replace(T2V, name="small-i2v", transformer=replace(T2V.transformer, in_channels=8))
T2V_15 = replace(T2V, name="small-1.5", transformer=replace(T2V.transformer, patch_size=(2, 2, 2), rope="slice"))
SMALL_VARIANTS = {variant.name: variant for variant in (T2V, I2V, T2V_15)}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PipelinePair]:
    """A small random model of a variation, in diffusers and here."""
    made: dict[str, PipelinePair] = {}

    def get(variation: str) -> PipelinePair:
        if variation not in made:
            made[variation] = pipeline_pair(variation, tmp_path_factory.mktemp("models") / variation)
        return made[variation]

    return get


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model; "small", "small-i2v" or "small-1.5"."""
    saved: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in saved:
            saved[name] = tmp_path_factory.mktemp("models") / name
            torch.manual_seed(0)
            save_random(saved[name], SMALL_VARIANTS[name])
        return saved[name]

    return get


@pytest.fixture(scope="session")
def _loaded(small_folder: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    loaded: dict[str, Pipeline] = {}

    def get(name: str) -> Pipeline:
        if name not in loaded:
            loaded[name] = cogworks.load(small_folder(name), device="cpu")
            loaded[name].load_networks()
            loaded[name].prompts.encode([""])
        return loaded[name]

    return get


@pytest.fixture
def small(_loaded: Callable[[str], Pipeline]) -> Callable[[str], Pipeline]:
    """A small random model whose networks are in memory, and that remembers nothing of other tests."""
    return lambda name: Pipeline(replace(_loaded(name).components))


@pytest.fixture
def fresh(small_folder: Callable[[str], Path]) -> Callable[..., Pipeline]:
    """A small random model that has read nothing yet; options are those of `cogworks.load`."""
    return lambda name, **options: cogworks.load(small_folder(name), **{"device": "cpu", **options})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the networks that are read from files, in order."""
    read: list[str] = []

    def counted(network: nn.Module, *arguments: Any) -> nn.Module:
        read.append(type(network).__name__)
        return fill(network, *arguments)

    monkeypatch.setattr("cogworks.weights.load.fill", counted)
    return read
