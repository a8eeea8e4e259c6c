"""Batches of clips as they are: in a new order every epoch, and without those that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import DataError
from cogworks.training.clips.batches import PixelBatch, ShapesBatches, to_batch
from cogworks.training.clips.prepared import open_batches
from cogworks.training.clips.read import EXTENTS, ClipsBatches
from cogworks.training.clips.shapes_clips import shapes_clip
from cogworks.training.clips.sources import FilesSource
from helpers.little_clips import save_clip

Build = Callable[..., TransformerRecipe]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def built(**values: Any) -> TransformerRecipe:
        complete = {
            "version": 1,
            "kind": "transformer",
            "model": "tiny",
            "output": str(tmp_path / "run"),
            "steps": 1,
            "batch_size": 2,
            "optimizer": {"learning_rate": 0.01},
            "data": {"kind": "clips", "source": str(tmp_path / "clips"), "sizes": [[5, 16, 16]]},
            **values,
        }
        parsed = parse_recipe(complete, "test")
        assert isinstance(parsed, TransformerRecipe)
        return parsed

    return built


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    for number in range(5):
        save_clip(folder / f"{number}.mp4", 9, 16, 16, caption=f"clip {number}")
    return folder


def batches(recipe: TransformerRecipe, replica: int = 0, replicas: int = 1) -> ClipsBatches:
    opened = open_batches(recipe, replica, replicas)
    assert isinstance(opened, ClipsBatches)
    return opened


def data(folder: Path, **values: Any) -> dict[str, Any]:
    return {"kind": "clips", "source": str(folder), "sizes": [[5, 16, 16]], **values}


def test_every_epoch_has_each_clip_once_in_another_order(build: Build, clips: Path) -> None:
    opened = batches(build(batch_size=1))
    epochs = [[opened[number].captions[0] for number in range(first, first + 5)] for first in (0, 5, 10)]
    assert all(sorted(epoch) == [f"clip {number}" for number in range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_pixels_are_those_of_the_clips(build: Build, clips: Path) -> None:
    batch = batches(build())[0]
    assert batch.pixels.shape == (2, 3, 5, 16, 16)
    assert batch.pixels.dtype == torch.float32
    levels = (batch.pixels[0].mean((0, 2, 3)) + 1) * 127.5
    # Frames 2 to 6 of 9, the middle; their levels are 8 apart (helpers.little_clips).
    torch.testing.assert_close(levels, torch.tensor([20.0, 28, 36, 44, 52]), atol=1.5, rtol=0)


def test_shapes_are_the_first_clips_in_another_order(build: Build) -> None:
    recipe = build(data={"kind": "shapes", "size": 16, "frames": 5}, clips=4)
    opened = batches(recipe)
    assert recipe.data.kind == "shapes"
    known = {}
    for index in range(4):
        frames, caption = shapes_clip(recipe.data, index)
        known[to_batch([frames]).numpy().tobytes()] = caption
    for number in range(4):
        batch = opened[number]
        for pixels, caption in zip(batch.pixels, batch.captions, strict=True):
            assert known[pixels[None].numpy().tobytes()] == caption
    endless = build(data={"kind": "shapes", "size": 16, "frames": 5})
    assert isinstance(open_batches(endless, 0, 1), ShapesBatches)


def test_a_bad_clip_is_replaced_logged_once_and_shifts_nothing(
    build: Build, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = build()
    before = batches(recipe)
    whole = [before[number] for number in range(10)]
    (clips / "3.mp4").write_bytes((clips / "3.mp4").read_bytes()[:900])  # the header is there, the frames are not
    seen = 0
    for number, expected in enumerate(whole):
        batch = before[number]
        for place, caption in enumerate(expected.captions):
            if caption == "clip 3":
                seen += 1
                assert batch.captions[place] != "clip 3"
            else:
                assert batch.captions[place] == caption
                assert torch.equal(batch.pixels[place], expected.pixels[place])
    assert seen > 1
    lines = [record.message for record in caplog.records if "stands in for" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("another clip stands in for 3.mp4 (1 so far): ")
    other = batches(recipe)  # a run that goes on finds it at the start, and leaves it out
    assert all("clip 3" not in other[number].captions for number in range(10))


def test_substitutes_are_the_same_in_every_process(build: Build, clips: Path) -> None:
    one, other = batches(build()), batches(build())
    (clips / "1.mp4").write_bytes(b"gone")
    for number in reversed(range(6)):
        other[number]
    assert all(one[number].captions == other[number].captions for number in range(6))


def test_no_clip_that_can_be_read(build: Build, clips: Path) -> None:
    opened = batches(build())
    for path in clips.glob("*.mp4"):
        path.write_bytes(b"gone")
    with pytest.raises(DataError, match="no clip of size 5x16x16 can be read; `cogworks data check RECIPE` tells why"):
        opened[0]
    with pytest.raises(DataError, match="no clip fits any size"):
        batches(build())


def test_clips_that_fit_no_size_are_left_out_at_the_start(
    build: Build, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_clip(clips / "short.mp4", 3, caption="short")
    save_clip(clips / "silent.mp4", 9)
    opened = batches(build())
    assert all("short" not in opened[number].captions for number in range(9))
    assert "left out short.mp4: too short" in caplog.text
    assert "left out silent.mp4" in caplog.text
    assert "2 clips are left out, 5 are there to learn from" in caplog.text


def test_random_views_differ_from_epoch_to_epoch_and_repeat_exactly(build: Build, tmp_path: Path) -> None:
    save_clip(tmp_path / "long" / "a.mp4", 25, 16, 16, caption="long")
    recipe = build(batch_size=1, data=data(tmp_path / "long", start="random"))
    one, other = batches(recipe), batches(recipe)
    views = [one[number].pixels for number in range(6)]
    assert all(torch.equal(other[number].pixels, views[number]) for number in reversed(range(6)))
    assert len({view.numpy().tobytes() for view in views}) > 1
    still = batches(build(batch_size=1, data=data(tmp_path / "long")))
    assert len({still[number].pixels.numpy().tobytes() for number in range(6)}) == 1


def test_captions_get_the_prefix(build: Build, clips: Path) -> None:
    opened = batches(build(data=data(clips, caption_prefix="CGWX ")))
    assert all(caption.startswith("CGWX clip ") for caption in opened[0].captions)


def test_clips_are_looked_at_once(build: Build, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = build()
    order = [batches(recipe)[number].captions for number in range(4)]
    looked: list[int] = []
    extent = FilesSource.extent
    monkeypatch.setattr(FilesSource, "extent", lambda self, index: looked.append(index) or extent(self, index))
    assert [batches(recipe)[number].captions for number in range(4)] == order
    assert looked == []
    save_clip(clips / "2.mp4", 12, 16, 16, caption="new")
    batches(recipe)
    assert looked == [2]
    (recipe.output / EXTENTS).write_text("damaged")
    batches(recipe)
    assert sorted(looked[1:]) == list(range(5))


def test_the_fingerprint_tells_other_data_apart(build: Build, clips: Path) -> None:
    first = batches(build()).fingerprint()
    assert batches(build()).fingerprint() == first
    assert batches(build(seed=1)).fingerprint() != first
    assert batches(build(data=data(clips, start="first"))).fingerprint() != first
    (clips / "0.txt").write_text("another caption")
    assert batches(build()).fingerprint() != first


@pytest.mark.slow
def test_workers_read_the_same_batches(build: Build, clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    (clips / "4.mp4").write_bytes((clips / "4.mp4").read_bytes()[:900])
    here = batches(build())
    loader = DataLoader(here, batch_size=None, sampler=range(4), num_workers=2)  # type: ignore[arg-type]
    for number, batch in enumerate(loader):
        ours, theirs = here[number], PixelBatch(*batch)
        assert ours.captions == theirs.captions
        assert torch.equal(ours.pixels, theirs.pixels)
