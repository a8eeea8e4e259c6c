"""What a run does to need less memory leaves its pixels as they are, or close; what changes them is announced.

These tests hold docs/hardware.md#how-exact-they-are. Halves of guidance and videos of a batch that pass through a
network one after the other, and pictures that pass through a layer in strips, are the same computation with sums in
another order (a matrix product may depend on how many rows it has): in float64 the pixels are equal, in float32 they
differ by less than a batch and its videos alone do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cogworks
from cogworks.config.measures import Measures
from cogworks.errors import RequestError
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.nn import causal_conv
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.planning.plan import RunShape
from cogworks.video import Video

Small = Callable[..., Pipeline]
FLOAT32_TOLERANCE = 1e-4  # pixels in [0, 1]; measured 3e-6
PROMPTS = ["a red circle", "the blue square"]


def source(name: str) -> dict[str, Any]:
    frames = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return {"small-i2v": {"image": frames[0]}, "small-1.5": {"video": Video(frames, 5)}}.get(name, {})


def frames(pipeline: Pipeline, **asked: Any) -> np.ndarray:
    made = pipeline.generate(PROMPTS, seed=3, sampler="dpm", **asked)
    assert isinstance(made, list)
    return np.stack([video.frames for video in made])


@pytest.mark.parametrize("name", ["small", "small-i2v", "small-1.5"])
@pytest.mark.parametrize(
    "measures",
    [
        Measures(offload=True),
        Measures(split_guidance=True),
        Measures(slicing=True),
        Measures(strips=8),
        Measures(strips=32),
        Measures(offload=True, split_guidance=True, slicing=True, strips=8),
    ],
    ids=["offload", "split_guidance", "slicing", "strips", "thin strips", "all"],
)
def test_exact_measures_give_the_same_pixels(
    fresh: Small, name: str, measures: Measures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogworks.nn.strips.LEAST_ROWS", 1)  # small pictures are cut as often as large ones
    plain = fresh(name, dtype=torch.float64, measures=Measures())
    measured = fresh(name, dtype=torch.float64, measures=measures)
    expected = frames(plain, **source(name))
    assert np.array_equal(frames(measured, **source(name)), expected)
    assert np.array_equal(frames(measured, **source(name)), expected)  # again, from what is left in memory
    assert measured.last_measures == measures
    assert not np.array_equal(frames(measured, **source(name), guidance_scale=5.0), expected)  # negative control


@pytest.mark.parametrize("measures", [Measures(split_guidance=True), Measures(slicing=True), Measures(strips=8)])
def test_in_float32_sums_in_another_order_are_all_that_differs(small: Small, measures: Measures) -> None:
    plain, measured = small("small"), small("small")
    measured.measures = measures
    one, other = (each.generate(PROMPTS, seed=3, output_type="pt") for each in (plain, measured))
    torch.testing.assert_close(one, other, atol=FLOAT32_TOLERANCE, rtol=0)


def test_offloading_gives_the_same_pixels_bitwise_in_float32(fresh: Small) -> None:
    expected = frames(fresh("small", measures=Measures()))
    assert np.array_equal(frames(fresh("small", measures=Measures(offload=True))), expected)


def test_a_trained_model_in_float32_is_at_most_a_level_off() -> None:
    """A value that is off by d in [0, 1] comes to another level with probability 255 d: 0.08 % where d is 3e-6.

    Measured: 3 of 24,576 values here, 2 of 208,896 with one video of 17 frames, 7 of 417,792 with two.
    """
    pipeline = cogworks.load("tiny", device="cpu", measures=Measures())

    def levels(measures: Measures) -> np.ndarray:
        pipeline.measures = measures
        return frames(pipeline, num_frames=1, num_inference_steps=4).astype(int)

    plain = levels(Measures())
    for measures in (Measures(split_guidance=True), Measures(slicing=True), Measures(strips=8)):
        difference = np.abs(levels(measures) - plain)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1e-3 * plain.size
    assert np.abs(levels(Measures(tile=(32, 32))) - plain).max() > 1  # the negative control: these change pixels


def test_strips_without_the_row_above_are_seen(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the tests above: their pictures are cut, and where is seen in the pixels."""
    pipeline, right = small("small"), causal_conv._write_strip
    pipeline.measures = Measures(strips=8)
    expected = frames(pipeline)
    assert expected.shape[2] == 32  # two strips at full size
    monkeypatch.setattr(
        causal_conv, "_write_strip", lambda x, affine, rows, above, room: right(x, affine, rows, None, room)
    )
    assert not np.array_equal(frames(pipeline), expected)


def test_guidance_in_halves_runs_half_the_batch(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, batches, right = small("small"), [], Transformer.predict

    def predict(
        self: Transformer, latents: torch.Tensor, text_tokens: torch.Tensor, *arguments: Any, **options: Any
    ) -> torch.Tensor:
        batches.append((len(text_tokens), options["step"].branch))
        return right(self, latents, text_tokens, *arguments, **options)

    monkeypatch.setattr(Transformer, "predict", predict)
    pipeline.measures = Measures()  # no plan, whose dry run would be counted
    pipeline.generate("a", num_inference_steps=1)
    pipeline.measures = Measures(split_guidance=True)
    pipeline.generate("a", num_inference_steps=1)
    pipeline.generate("a", num_inference_steps=1, guidance_scale=1.0)
    assert batches == [(2, "joint"), (1, "unconditional"), (1, "conditional"), (1, "conditional")]


def test_slices_and_tiles_are_what_the_vae_sees(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, shapes, strips = small("small"), [], []
    pipeline.measures = Measures()
    right = VAE.decode_stream

    def decode_stream(self: VAE, latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        shapes.append(tuple(latents.shape[i] for i in (0, 3, 4)))
        strips.append(options["strips"])
        return right(self, latents, *arguments, **options)

    monkeypatch.setattr(VAE, "decode_stream", decode_stream)
    asked = {"height": 32, "width": 48, "num_inference_steps": 1, "num_frames": 1}
    pipeline.generate(PROMPTS, **asked)
    pipeline.measures = Measures(slicing=True)
    pipeline.generate(PROMPTS, **asked)
    pipeline.measures = Measures(tile=(32, 32))
    pipeline.generate(PROMPTS, **asked)
    assert shapes[:3] == [(2, 4, 6), (1, 4, 6), (1, 4, 6)]
    assert shapes[3:] == [(2, 4, 4), (2, 4, 2)]  # the tiles overlap by no whole latent: a fifth of four
    for measures in (Measures(strips=8), Measures(strips=8, tile=(32, 32))):
        pipeline.measures = measures
        pipeline.generate(PROMPTS, **asked)
    assert shapes[5:] == [(2, 4, 6), (2, 4, 4), (2, 4, 2)]
    assert strips == [1] * 5 + [8] * 3


def test_tiles_in_strips_are_the_same_tiles(fresh: Small) -> None:
    plain = fresh("small", dtype=torch.float64, measures=Measures(tile=(32, 32)))
    cut = fresh("small", dtype=torch.float64, measures=Measures(strips=8, tile=(32, 32)))
    asked = {"height": 48, "width": 32, "num_inference_steps": 1}
    expected = frames(plain, **asked)
    assert np.array_equal(frames(cut, **asked), expected)
    cut.measures = Measures(strips=8)
    assert not np.array_equal(frames(cut, **asked), expected)  # negative control


def test_tiles_stay_close(fresh: Small) -> None:
    """A trained model, four tiles of up to 96x96 in 128x128: measured 43 dB."""
    pipeline = cogworks.load("tiny", device="cpu", measures=Measures())
    asked = {"height": 128, "width": 128, "num_frames": 1, "num_inference_steps": 4, "seed": 7}
    whole = pipeline.generate("a red circle moves right on a black background", **asked)
    pipeline.measures = Measures(tile=(96, 96))
    tiled = pipeline.generate("a red circle moves right on a black background", **asked)
    assert isinstance(whole, Video)
    assert isinstance(tiled, Video)
    error = np.square(whole.frames.astype(float) - tiled.frames).mean()
    psnr = 10 * np.log10(255**2 / error)
    assert 35 < psnr < 60  # and not equal: the tiles were there


# ---- measures that a plan takes


class Planned:
    """Stands in for `plan_run`."""

    def __init__(self, measures: Measures, *, fits: bool = True) -> None:
        self.measures, self.fits, self.peak, self.seconds = measures, fits, 3 * 10**9, None
        self.asked: list[tuple[RunShape, dict[str, Any]]] = []

    def __call__(self, variant: Any, shape: RunShape, **options: Any) -> Planned:
        self.asked.append((shape, options))
        return self


def test_without_measures_a_plan_decides_once_for_each_shape(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Planned(Measures(split_guidance=True))
    monkeypatch.setattr("cogworks.pipelines.generate.plan_run", plan)
    pipeline = fresh("small", memory="2GB")
    for count in (1, 1, 1, 3):
        pipeline.generate("a", num_videos_per_prompt=count, num_inference_steps=2)
        assert pipeline.last_measures == Measures(split_guidance=True)
    assert [(shape.num_videos, shape.num_prompts, shape.steps, shape.source) for shape, _ in plan.asked] == [
        (1, 1, 2, "none"),
        (1, 0, 2, "none"),  # the prompt is known by now
        (3, 0, 2, "none"),
    ]
    options = plan.asked[0][1]
    assert options["budget"] == 2 * 10**9
    assert (options["dtype"], options["text_dtype"]) == (torch.float32, torch.float32)
    fresh("small", measures=Measures()).generate("a")
    assert len(plan.asked) == 3


def test_a_run_that_may_not_fit_is_announced_and_tried(fresh: Small, caplog: pytest.LogCaptureFixture) -> None:
    fresh("small", memory="1MB").generate("a", num_inference_steps=1)
    assert "may hold 1.0 MB" in caplog.text
    assert "It is tried all the same" in caplog.text


def test_measures_are_taken_without_a_word(
    fresh: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They keep the pixels."""
    monkeypatch.setattr("cogworks.pipelines.generate.plan_run", Planned(Measures(offload=True, strips=8)))
    fresh("small").generate("a", num_inference_steps=1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_tiles_are_taken_where_they_are_asked_for(fresh: Small) -> None:
    request: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 1, "seed": 1}
    planned = fresh("small", tile=(32, 32))
    made = planned.generate("a", **request)
    assert planned.last_measures == Measures(tile=(32, 32))
    by_hand = fresh("small", measures=Measures(tile=(32, 32))).generate("a", **request)
    assert isinstance(made, Video)
    assert isinstance(by_hand, Video)
    assert np.array_equal(made.frames, by_hand.frames)
    with pytest.raises(RequestError, match="not both"):
        fresh("small", measures=Measures(), tile=(32, 32))


def test_a_run_that_the_machine_cannot_hold_is_refused(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogworks.pipelines.generate.total_memory", lambda device: 10**6)
    with pytest.raises(RequestError, match=r"this run needs .* and may hold 1\.0 MB"):
        fresh("small", memory="1MB").generate("a", num_inference_steps=1)


def test_what_is_loaded_already_counts_for_the_run(fresh: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Planned(Measures())
    monkeypatch.setattr("cogworks.pipelines.generate.plan_run", plan)
    monkeypatch.setattr("cogworks.pipelines.generate.free_memory", lambda device: 10**9)
    pipeline = fresh("small")
    pipeline.generate("a", num_inference_steps=1)
    pipeline.generate("b", num_inference_steps=2)
    pipeline.generate("a", num_inference_steps=3)
    text, *others = (network.form.num_bytes for network in pipeline.components.networks)
    first, second, third = (options["budget"] for _, options in plan.asked)
    assert second - first == text + sum(others)
    assert third - first == sum(others) > 0  # a prompt that is known does not need the text encoder


def test_the_plan_of_a_real_model_is_made_and_kept(small: Small) -> None:
    pipeline = small("small")
    pipeline.generate("a", num_inference_steps=1)
    assert pipeline.last_measures == Measures()
