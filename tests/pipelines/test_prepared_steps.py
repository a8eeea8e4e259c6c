"""What all steps of a run have in common is computed once, and again where something it comes from has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogworks.config.measures import Measures
from cogworks.extensions.attach import Attachment, attach
from cogworks.extensions.lora import LoRA
from cogworks.models.transformer import Transformer
from cogworks.pipelines import denoiser
from cogworks.pipelines.generate import Pipeline

Change = Callable[[Pipeline, dict[str, Any]], dict[str, Tensor] | None]


def lora(pipeline: Pipeline) -> Attachment:
    """A LoRA on everything that a run prepares, which changes something."""
    transformer = pipeline.components.networks.transformer.get()
    attached = attach(transformer, LoRA(rank=1, targets=("modulations.*", "modulation_out", "*.text_proj", "*.down")))
    for name, parameter in transformer.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    return attached


def rescaled(pipeline: Pipeline, tensors: dict[str, Any]) -> None:
    for module in pipeline.components.networks.transformer.get().modules():
        if hasattr(module, "set_scale"):
            module.set_scale(0.3)


def another_prompt(pipeline: Pipeline, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}


def another_negative(pipeline: Pipeline, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {"negative_prompt_embeds": tensors["negative_prompt_embeds"] * 0.5}


def written_weight(pipeline: Pipeline, tensors: dict[str, Any]) -> None:
    with torch.no_grad():
        pipeline.components.networks.transformer.get().modulation_out.bias.add_(0.1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of timesteps of the tables that are made."""
    counted, right = [], Transformer.modulation_table

    def table(self: Transformer, timesteps: Tensor, ofs: Tensor | None = None) -> Any:
        counted.append(len(timesteps))
        return right(self, timesteps, ofs)

    monkeypatch.setattr(Transformer, "modulation_table", table)
    return counted


def test_one_table_for_all_steps(fresh: Callable[..., Pipeline], made: list[int]) -> None:
    pipeline = fresh("small", measures=Measures())  # no plan, whose dry run makes tables too
    pipeline.generate("a", num_inference_steps=5, seed=0)
    assert made == [5]
    made.clear()
    pipeline.generate("a", num_inference_steps=5, seed=0, video=pipeline.generate("a", seed=0), strength=0.6)
    assert made[-1] == 3


@pytest.mark.parametrize("change", [rescaled, another_prompt, another_negative, written_weight, "detach"])
def test_a_change_between_steps_counts_from_the_next_one(
    fresh: Callable[..., Pipeline], made: list[int], monkeypatch: pytest.MonkeyPatch, change: Change | str
) -> None:
    """As if everything were computed in every step, which the second run does."""

    def run() -> Tensor:
        pipeline = fresh("small", measures=Measures())
        attached = lora(pipeline)

        def callback(pipeline: Pipeline, index: int, timestep: float, tensors: dict[str, Any]) -> Any:
            if index != 1:
                return None
            if callable(change):
                return change(pipeline, tensors)
            return attached.detach()

        made.clear()
        return pipeline.generate(
            "a", num_inference_steps=4, seed=0, callback_on_step_end=callback, output_type="latent"
        )

    found = run()
    assert made == [4, 4]
    monkeypatch.setattr(denoiser.Seen, "unchanged", lambda self, modules: False)
    expected = run()
    assert made == [4] * 4
    assert torch.equal(found, expected)
    # Negative control: a table that is kept whatever happens gives something else.
    monkeypatch.setattr(denoiser.Seen, "unchanged", lambda self, modules: True)
    if change not in (another_prompt, another_negative):
        assert (run() - expected).abs().max() > 1e-4
