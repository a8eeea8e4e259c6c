"""`cogworks.load(..., quantize=...)`: what is held, what is planned, what a recipe says, what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cogworks
from cogworks.config.measures import Measures, Quantization
from cogworks.config.request import GenerationRequest, LoRAUse
from cogworks.config.variants import COGVIDEOX_2B
from cogworks.config.video_recipe import VideoRecipe
from cogworks.errors import ExtensionError, RequestError
from cogworks.extensions.int8 import Int8Linear, quantize_linears
from cogworks.extensions.int8_products import Int8ProductLinear, Int8Products, why_not_integers
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.job import Delivery, Means, Workshop
from cogworks.pipelines.planning.meter import Meter
from cogworks.pipelines.planning.plan import plan_run
from cogworks.pipelines.planning.shape import default_shape
from cogworks.pipelines.provenance import request_key
from cogworks.pipelines.quantization import QUANTIZATIONS
from cogworks.video import Video
from cogworks.weights.lora_write import write_lora
from helpers.lora_factors import random_pair

Fresh = Callable[..., Pipeline]
EACH = pytest.mark.parametrize("quantize", QUANTIZATIONS)
PROMPT = "a red circle moves right"


def frames(pipeline: Pipeline) -> np.ndarray:
    video = pipeline.generate(PROMPT, seed=3, num_inference_steps=2)
    assert isinstance(video, Video)
    return video.frames.astype(int)


@EACH
def test_it_generates_what_quantized_linears_generate(fresh: Fresh, quantize: Quantization) -> None:
    expected, plain = fresh("small"), frames(fresh("small"))
    options: dict[str, Any] = {"extension": Int8Products} if quantize == "int8" else {}
    quantize_linears(expected.components.transformer, **options)
    found = frames(fresh("small", quantize=quantize))
    np.testing.assert_array_equal(found, frames(expected))
    assert np.abs(found - plain).max() > 0  # negative control: it is not the plain model
    assert np.abs(found - plain).mean() < 3


@EACH
def test_weights_are_packed_as_they_are_read(
    fresh: Fresh, quantize: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = fresh("small", quantize=quantize)
    lazy, plain = pipeline.components.networks.transformer, fresh("small").components.networks.transformer
    form = lazy.form
    assert not lazy.loaded
    network = lazy.get()
    held = [module for module in network.modules() if isinstance(module, Int8Linear)]
    assert len(held) == 4 * len(network.blocks)
    assert all(isinstance(module, Int8ProductLinear) == (quantize == "int8") for module in held)
    assert all(module.linear.weight.dtype == torch.int8 for module in held)
    assert form.num_bytes == sum(parameter.nbytes for parameter in network.parameters()) < plain.form.num_bytes
    assert form.dtype == pipeline.components.dtype == torch.float32
    assert not network.training
    network.to("cpu", torch.bfloat16)  # nothing was left on the meta device
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert held[0].weight.dtype == torch.bfloat16


@EACH
def test_offloaded_it_is_packed_again(fresh: Fresh, quantize: Quantization, reads: list[str]) -> None:
    pipeline = fresh("small", quantize=quantize, measures=Measures(offload=True))
    first = frames(pipeline)
    assert not pipeline.components.networks.transformer.loaded
    np.testing.assert_array_equal(frames(pipeline), first)
    assert reads.count("Transformer") == 2
    np.testing.assert_array_equal(frames(fresh("small", quantize=quantize)), first)


@EACH
def test_a_lora_acts_on_it_and_goes_without_a_trace(fresh: Fresh, quantize: Quantization, tmp_path: Path) -> None:
    pipeline = fresh("small", quantize=quantize)
    bare = frames(pipeline)
    plain = fresh("small").components.transformer
    paths = ("blocks.0.attention.out", "blocks.0.mlp.up")
    write_lora(tmp_path / "l.safetensors", [random_pair(plain, path, alpha=30.0) for path in paths], "diffusers")
    with pipeline.adapters.used([LoRAUse(path=tmp_path / "l.safetensors")]):
        assert np.abs(frames(pipeline) - bare).max() > 0
    np.testing.assert_array_equal(frames(pipeline), bare)
    pipeline.adapters.load_lora_weights(tmp_path / "l.safetensors")
    with pytest.raises(ExtensionError, match="LoRA merges into plain weights alone"):
        pipeline.adapters.fuse_lora()


def test_the_recipe_carries_it_and_the_key_differs(fresh: Fresh, tmp_path: Path) -> None:
    for quantize in (None, *QUANTIZATIONS):
        video = fresh("small", quantize=quantize).generate(PROMPT, seed=3, num_inference_steps=1)
        assert isinstance(video, Video)
        assert video.recipe is not None
        recipe = VideoRecipe.from_metadata(video.recipe(), "video")
        assert recipe.run.get("quantize") == quantize
    request = GenerationRequest(prompt=PROMPT, seed=3)
    keys = {request_key(request, {}, "w", quantize) for quantize in (None, *QUANTIZATIONS)}
    assert len(keys) == 3
    assert request_key(request, {}, "w") in keys


@EACH
def test_what_was_made_is_made_again_from_its_recipe(small_folder: Any, quantize: Quantization, tmp_path: Path) -> None:
    request = GenerationRequest(prompt=PROMPT, seed=3, num_inference_steps=2, model=str(small_folder("small")))

    def make(means: Means, name: str) -> VideoRecipe:
        workshop = Workshop(means)
        return workshop.make(workshop.prepare(request), tmp_path / name, Delivery()).recipe

    first, again = (make(Means(device="cpu", quantize=quantize), name) for name in ("a.gif", "b.gif"))
    assert first.pixels == again.pixels
    assert first.differences(again) == []
    exact = make(Means(device="cpu"), "c.gif")
    assert exact.pixels != first.pixels
    assert exact.differences(first) == [f"quantize: None -> {quantize}"]
    assert exact.key != first.key


def test_a_released_workshop_loads_again(small_folder: Any) -> None:
    request = GenerationRequest(prompt=PROMPT, seed=3, num_inference_steps=1, model=str(small_folder("small")))
    workshop = Workshop(Means(device="cpu", quantize="int8-weights"))
    prepared = workshop.prepare(request)
    video, latents = workshop.generate(prepared)
    pipeline = workshop.pipeline(request.model)
    workshop.release()
    assert workshop.pipeline(request.model) is not pipeline
    again, same = workshop.generate(prepared)
    assert torch.equal(latents, same)
    assert latents.shape == (1, 4, 3, 4, 4)
    np.testing.assert_array_equal(video.frames, again.frames)


@EACH
def test_a_plan_counts_the_weights_as_they_are_then(fresh: Fresh, quantize: Quantization) -> None:
    plain, pipeline = fresh("small"), fresh("small", quantize=quantize)
    saved = (
        plain.components.networks.transformer.form.num_bytes - pipeline.components.networks.transformer.form.num_bytes
    )
    before, after = (each.plan(default_shape(each.variant)) for each in (plain, pipeline))
    assert after.shape.quantize == quantize
    for ours, theirs in zip(after.phases, before.phases, strict=True):
        assert theirs.weights - ours.weights == (0 if ours.name == "prompt" else saved)
        assert 0.9 < ours.flops / theirs.flops <= 1


def test_a_large_plan_is_made_in_seconds_and_smaller() -> None:
    plans = {
        quantize: plan_run(
            COGVIDEOX_2B,
            replace(default_shape(COGVIDEOX_2B), quantize=quantize),
            device=torch.device("cpu"),
            dtype=torch.float32,
            text_dtype=torch.float32,
            budget=10**12,
            seconds=False,
        )
        for quantize in (None, *QUANTIZATIONS)
    }
    exact, *packed = (next(phase for phase in plan.phases if phase.name == "steps") for plan in plans.values())
    for phase in packed:
        # 1.33 of 2B's 1.69 billion weights are in the linears of the blocks: 3 bytes less each.
        assert exact.weights - phase.weights == pytest.approx(3.98e9, rel=0.01)
        assert exact.memory - phase.memory > 2e9  # its feed-forwards overwrite nothing
        assert 0.99 < phase.flops / exact.flops <= 1


@torch.no_grad()
def test_a_dry_run_counts_products_of_int8_as_matrix_products() -> None:
    tokens, weight = (torch.empty(shape, dtype=torch.int8, device="meta") for shape in ((7, 8), (5, 8)))
    with Meter(torch.device("cpu")) as meter:
        torch._int_mm(tokens, weight.t())
    assert meter.work.matmul == 2 * 7 * 8 * 5


def test_it_is_refused_where_it_cannot_be(fresh: Fresh, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no quantization named 'int4'; there are int8 and int8-weights"):
        fresh("small", quantize="int4")
    with pytest.raises(RequestError, match="held as int8-weights, which no model folder is"):
        fresh("small", quantize="int8-weights").save_pretrained(tmp_path / "m")


def test_weights_that_are_not_finite_are_named(small_folder: Any, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(small_folder("small"), tmp_path / "m")
    path = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    name = next(name for name in tensors if "ff" in name and name.endswith("weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path)
    pipeline = cogworks.load(folder, device="cpu", quantize="int8-weights")
    with pytest.raises(ExtensionError, match=r"blocks\.0\.mlp\.\w+ cannot go to 8 bits: its weight holds"):
        pipeline.load_networks()


@pytest.mark.parametrize("units", [True, False])
def test_int8_without_units_is_announced(
    units: bool, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    why_not_integers.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": units})
    try:
        with caplog.at_level(logging.WARNING, logger="cogworks"):
            fresh("small", quantize="int8-weights")
            fresh("small")
            assert not caplog.records
            fresh("small", quantize="int8")
    finally:
        why_not_integers.cache_clear()
    assert len(caplog.records) == (0 if units else 1)
    assert units or "no units for products of int8 (VNNI or AMX)" in caplog.text


def test_the_bundled_model_is_near_its_exact_self() -> None:
    """A few steps of `tiny`: figures of whole runs are in docs/hardware.md."""

    def latents(quantize: Quantization | None) -> torch.Tensor:
        pipeline = cogworks.load("tiny", device="cpu", quantize=quantize)
        pipeline.generate(PROMPT, seed=1, num_inference_steps=3, output_type="latent")
        assert pipeline.last_latents is not None
        return pipeline.last_latents

    exact = latents(None)
    weights, products = (float((latents(each) - exact).norm() / exact.norm()) for each in ("int8-weights", "int8"))
    assert 1e-4 < weights < products < 0.1
