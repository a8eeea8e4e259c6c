"""Memory that runs out in the middle of a run, by a fake that raises what torch raises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogworks.config.measures import Measures
from cogworks.errors import MemoryShortageError
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE, Decoder, Encoder
from cogworks.nn.time_context import TimeContext
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.memory import in_smaller_tiles, in_thinner_strips, is_out_of_memory
from cogworks.pipelines.resume import RunCheckpoint
from cogworks.video import Video

Small = Callable[..., Pipeline]
CPU_SHORTAGE = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"  # noqa: E501  as torch says it
)
WINDOWS_SHORTAGE = RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9")
GPU_SHORTAGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
TALL = {"height": 128, "width": 64, "num_frames": 1, "num_inference_steps": 1, "seed": 1}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, ...]]]:
    """Let a network run out of memory above a size; returns the shapes that it was asked for."""

    def install(kind: type, fits: Callable[[torch.Size], bool], error: Exception) -> list[tuple[int, ...]]:
        method, place = ("predict", 1) if kind is Transformer else ("forward", 0)
        asked, right = [], getattr(kind, method)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            asked.append(tuple(arguments[place].shape))  # the transformer's is that of the text tokens
            if not fits(arguments[place].shape):
                raise error
            return right(self, *arguments, **options)

        monkeypatch.setattr(kind, method, call)
        return asked

    return install


def unplanned(pipeline: Pipeline) -> Pipeline:
    """Begins without measures, and without a plan, whose dry run would meet the fake."""
    pipeline.measures = Measures()
    return pipeline


@pytest.mark.parametrize("error", [CPU_SHORTAGE, WINDOWS_SHORTAGE, GPU_SHORTAGE, MemoryError()])
def test_decoding_goes_on_in_smaller_pieces(
    small: Small, short: Callable[..., Any], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Measures that keep the pixels, and tiles of half the size where tiles were asked for; the latents stay."""
    pipeline = unplanned(small("small"))
    pipeline.measures = Measures(tile=(128, 128))
    asked = short(Decoder, lambda shape: shape[0] == 1 and shape[3] <= 8, error)
    videos = pipeline.generate(["a", "b"], **TALL)
    assert [video.frames.shape for video in videos] == [(1, 128, 64, 3)] * 2
    assert asked[:4] == [(2, 4, 1, 16, 8), *[(1, 4, 1, 16, 8)] * 3]
    assert set(asked[4:]) == {(1, 4, 1, 8, 8), (1, 4, 1, 2, 8), (1, 4, 1, 8, 1), (1, 4, 1, 2, 1)}
    assert pipeline.last_measures == Measures(slicing=True, offload=True, strips=8, tile=(64, 64))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "memory ran out in decoding; trying again one video at a time",
        "memory ran out in decoding; trying again with the other networks put aside",
        "memory ran out in decoding; trying again in 8 strips",
        "memory ran out in decoding; trying again in tiles of 64x64",
    ]


def test_strips_may_be_enough(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = unplanned(small("small"))
    expected = pipeline.generate("a", **TALL).frames
    right = Decoder.forward

    def forward(self: Decoder, latents: torch.Tensor, context: TimeContext) -> torch.Tensor:
        if context.strips == 1:
            raise GPU_SHORTAGE
        return right(self, latents, context)

    monkeypatch.setattr(Decoder, "forward", forward)
    made = pipeline.generate("a", **TALL).frames
    assert abs(made.astype(int) - expected).max() <= 1
    assert pipeline.last_measures == Measures(offload=True, strips=8)


def test_decoding_goes_on_in_thinner_strips_and_keeps_the_pixels(
    fresh: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cogworks.nn.strips.LEAST_ROWS", 1)
    expected = unplanned(fresh("small", dtype=torch.float64)).generate("a", **TALL)
    pipeline = unplanned(fresh("small", dtype=torch.float64))
    right = Decoder.forward

    def forward(self: Decoder, latents: torch.Tensor, context: TimeContext) -> torch.Tensor:
        if context.strips < 32:
            raise GPU_SHORTAGE
        return right(self, latents, context)

    monkeypatch.setattr(Decoder, "forward", forward)
    assert np.array_equal(pipeline.generate("a", **TALL).frames, expected.frames)
    assert pipeline.last_measures == Measures(offload=True, strips=32)
    said = [record.getMessage() for record in caplog.records if "strips" in record.getMessage()]
    assert said == [f"memory ran out in decoding; trying again in {count} strips" for count in (8, 16, 32)]


def test_tiles_are_for_who_asks_for_them(small: Small, short: Callable[..., Any]) -> None:
    """They change pixels. Who has none is told of them when there is nothing else left."""
    pipeline = unplanned(small("small"))
    asked = short(Decoder, lambda shape: shape[3] <= 8, GPU_SHORTAGE)
    with pytest.raises(MemoryShortageError, match=r"ran out in decoding .* nothing left to save .* --tile 256x256"):
        pipeline.generate(["a", "b"], **TALL)
    assert {shape[3:] for shape in asked} == {(16, 8)}  # whole pictures, all of them


def test_encoding_goes_on_in_smaller_pieces(small: Small, short: Callable[..., Any]) -> None:
    pipeline = unplanned(small("small-i2v"))
    pipeline.measures = Measures(tile=(128, 128))
    short(Encoder, lambda shape: shape[3] <= 64, GPU_SHORTAGE)
    image = torch.zeros(128, 64, 3, dtype=torch.uint8).numpy()
    assert isinstance(pipeline.generate("a", image=image, **TALL), Video)
    assert pipeline.last_measures == Measures(offload=True, strips=8, tile=(64, 64))


def test_what_fits_nowhere_is_said(small: Small, short: Callable[..., Any], tmp_path: Path) -> None:
    """With a checkpoint the latents are on disk by then, and the next run only decodes."""
    pipeline, checkpoint = unplanned(small("small")), RunCheckpoint(tmp_path / "run", "key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "forward", lambda *arguments: (_ for _ in ()).throw(GPU_SHORTAGE))
        with pytest.raises(MemoryShortageError, match="memory ran out in decoding and there is nothing left to save"):
            pipeline.generate("a", **TALL, checkpoint=checkpoint)
    assert checkpoint.path.exists()
    steps = short(Transformer, lambda shape: False, GPU_SHORTAGE)
    assert isinstance(pipeline.generate("a", **TALL, checkpoint=checkpoint), Video)
    assert steps == []


def test_sampling_goes_on_with_guidance_in_halves(
    small: Small, short: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = unplanned(small("small"))
    expected = pipeline.generate("a", seed=1, output_type="pt")
    asked = short(Transformer, lambda shape: shape[0] == 1, GPU_SHORTAGE)
    made = pipeline.generate("a", seed=1, output_type="pt")
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert [shape[0] for shape in asked] == [2] + [1] * 6  # it stays so for the steps to come
    assert pipeline.last_measures == Measures(split_guidance=True)
    assert "memory ran out in sampling; trying again with the halves of guidance one after the other" in caplog.text


def test_sampling_that_fits_nowhere(small: Small, short: Callable[..., Any]) -> None:
    asked = short(Transformer, lambda shape: False, CPU_SHORTAGE)
    with pytest.raises(MemoryShortageError, match="ran out in sampling and there is nothing left to save on cpu"):
        unplanned(small("small")).generate("a")
    assert [shape[0] for shape in asked] == [2, 1, 1]  # together, in halves, with the other networks put aside
    with pytest.raises(MemoryShortageError):
        unplanned(small("small")).generate("a", guidance_scale=1.0)


def test_other_faults_are_not_taken_for_it(small: Small, short: Callable[..., Any]) -> None:
    asked = short(VAE, lambda shape: True, CPU_SHORTAGE)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        assert not is_out_of_memory(error)
    short(Decoder, lambda shape: False, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        small("small").generate("a", **TALL)
    assert asked == []


def test_strips_become_thinner_as_long_as_they_can() -> None:
    def counts(height: int, tile: tuple[int, int] | None = None) -> list[int]:
        measures, taken = Measures(tile=tile), []
        while relief := in_thinner_strips(measures, height):
            measures = relief[0]
            taken.append(measures.strips)
        return taken

    assert counts(480) == [8, 16, 32]
    assert counts(64) == [8]  # four of sixteen rows, and more strips would be the same
    assert counts(16) == []
    assert counts(480, tile=(64, 720)) == [8]  # each tile is cut, and not the picture


def test_tiles_halve_down_to_the_least() -> None:
    measures, tiles = Measures(tile=(480, 720)), []
    while relief := in_smaller_tiles(measures, 480, 720):
        measures = relief[0]
        tiles.append(measures.tile)
    assert tiles == [(240, 368), (128, 192), (64, 96), (64, 64)]
    assert in_smaller_tiles(Measures(tile=(64, 48)), 64, 48) is None
    assert in_smaller_tiles(Measures(), 480, 720) is None
    assert in_smaller_tiles(Measures(tile=(480, 480)), 64, 128) == (Measures(tile=(64, 64)), "in tiles of 64x64")
