"""Batches of prepared clips: they equal those that are encoded on the way, whoever asks for them and when."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import DataError
from cogworks.training.clips.batches import LatentBatch, PixelBatch
from cogworks.training.clips.prepare import prepare
from cogworks.training.clips.prepared import PreparedBatches, open_batches, prepared_folder
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import build_model, find_parts
from helpers.little_clips import save_clip
from helpers.small_folder import SMALL, save_small

TOLERANCE = 1e-5  # float32: captions are embedded one by one, and not in a batch
CLIPS = 7

TAKES_IMAGE = replace(
    SMALL, name="small-i2v", transformer=replace(SMALL.transformer, in_channels=2 * SMALL.transformer.in_channels)
)

Build = Callable[..., TransformerRecipe]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_small(folder / "t2v")
    save_small(folder / "i2v", TAKES_IMAGE)
    return folder


@pytest.fixture(scope="module")
def prepared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all recipes here share, but for those that change something that matters."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(recipe_of(models, folder, folder / "run"))
    return folder


def recipe_of(models: Path, folder: Path | None, output: Path, **values: Any) -> TransformerRecipe:
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": str(models / "t2v"),
        "output": str(output),
        "prepared": None if folder is None else str(folder),
        "posterior": "mode",
        "steps": 1,
        "batch_size": 3,
        "threads": 1,
        "optimizer": {"learning_rate": 0.01},
        "data": {"kind": "shapes", "size": 16, "frames": 5},
        "clips": CLIPS,
        "caption_dropout": 0.5,
        **values,
    }
    if complete["data"]["kind"] == "clips":
        complete.pop("clips")
    parsed = parse_recipe(complete, "test")
    assert isinstance(parsed, TransformerRecipe)
    return parsed


@pytest.fixture
def build(models: Path, prepared: Path, tmp_path: Path) -> Build:
    def built(**values: Any) -> TransformerRecipe:
        return recipe_of(models, values.pop("folder", prepared), tmp_path / "run", **values)

    return built


def batches(recipe: TransformerRecipe, replica: int = 0, replicas: int = 1) -> PreparedBatches:
    opened = open_batches(recipe, replica, replicas)
    assert isinstance(opened, PreparedBatches)
    return opened


def same(one: LatentBatch, other: LatentBatch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("broken", [False, True])
def test_losses_are_those_of_clips_that_are_encoded_on_the_way(
    build: Build, kind: str, broken: bool, models: Path
) -> None:
    ready = build(model=str(models / kind))
    plain = build(model=str(models / kind), folder=None, seed=ready.seed + broken)
    prepare(ready)
    torch.manual_seed(0)
    ours, theirs = (TransformerModule(each, build_model(each)) for each in (ready, plain))
    theirs.load_state_dict(ours.state_dict())
    assert ours.model.text_encoder is None
    assert (ours.model.vae is None) == (kind == "t2v")
    for number in range(3):
        batch, pixels = batches(ready)[number], open_batches(plain, 0, 1)[number]
        assert isinstance(pixels, PixelBatch)
        assert broken or batch.captions == pixels.captions
        with torch.no_grad():
            off = (ours.losses(batch)[0] - theirs.losses(pixels)[0]).abs().max()
        assert off > 100 * TOLERANCE if broken else off < TOLERANCE


def test_a_batch_is_a_function_of_its_number(build: Build) -> None:
    one, other = batches(build()), batches(build())
    forwards = [one[number] for number in range(6)]
    assert all(same(other[number], forwards[number]) for number in reversed(range(6)))
    assert [batch.number for batch in forwards] == list(range(6))
    assert len({tuple(batch.captions) for batch in forwards}) > 1


def test_replicas_share_no_clip_of_a_batch_and_see_all_of_them(build: Build) -> None:
    shares = [batches(build(), replica, 2) for replica in range(2)]
    seen: set[bytes] = set()
    for number in range(7):
        clips = [latent.numpy().tobytes() for share in shares for latent in share[number].latents]
        assert len(set(clips)) == len(clips) == 6
        seen |= set(clips)
    assert len(seen) == CLIPS


@pytest.mark.slow
def test_workers_prepare_the_same_batches(build: Build) -> None:
    here = batches(build())
    numbers = range(3, 7)
    loader = DataLoader(here, batch_size=None, sampler=numbers, num_workers=2)  # type: ignore[arg-type]
    for number, batch in zip(numbers, loader, strict=True):
        assert same(LatentBatch(*batch), here[number])


def test_what_batches_hold(build: Build) -> None:
    batch = batches(build())[0]
    text = SMALL.transformer
    assert batch.latents.shape == (3, SMALL.vae.latent_channels, 2, 2, 2)
    assert batch.latents.dtype == torch.float32
    assert batch.text_emb is not None
    assert batch.empty_emb is not None
    assert batch.text_emb.shape == (3, text.text_tokens, text.text_width)
    assert batch.empty_emb.shape == (1, text.text_tokens, text.text_width)
    assert batch.images is None


def test_first_frames_for_image_to_video(build: Build, models: Path) -> None:
    recipe = build(model=str(models / "i2v"))
    prepare(recipe)
    batch, pixels = batches(recipe)[2], open_batches(recipe.model_copy(update={"prepared": None}), 0, 1)[2]
    assert isinstance(pixels, PixelBatch)
    assert batch.images is not None
    assert torch.equal(batch.images, pixels.pixels[:, :, 0])


def test_an_image_of_its_own_is_what_image_to_video_begins_with(build: Build, models: Path, tmp_path: Path) -> None:
    from PIL import Image

    clips = tmp_path / "clips"
    save_clip(clips / "a.mp4", caption="with an image")
    Image.new("RGB", (16, 16), (200, 30, 40)).save(clips / "a.png")
    data = {"kind": "clips", "source": str(clips), "sizes": [[5, 16, 16]]}
    recipe = build(model=str(models / "i2v"), data=data, batch_size=1)
    prepare(recipe)
    batch, pixels = batches(recipe)[0], open_batches(recipe.model_copy(update={"prepared": None}), 0, 1)[0]
    assert batch.images is not None
    assert pixels.images is not None
    assert torch.equal(batch.images, pixels.images)
    colour = (batch.images[0].mean((1, 2)) + 1) * 127.5
    torch.testing.assert_close(colour, torch.tensor([200.0, 30, 40]), atol=0.5, rtol=0)
    # Another picture is another clip, though the video is the same.
    Image.new("RGB", (16, 16), (10, 30, 40)).save(clips / "a.png")
    assert prepare(recipe).new_clips == 1


def test_a_trained_text_encoder_gets_captions(build: Build) -> None:
    recipe = build(train_text_encoder=True)
    prepare(recipe)
    batch = batches(recipe)[0]
    assert batch.text_emb is None
    assert batch.empty_emb is None
    module = TransformerModule(recipe, build_model(recipe))
    module.losses(batch)[0].mean().backward()
    assert module.text_encoder.embed.weight.grad is not None


def test_every_batch_has_one_shape(build: Build, tmp_path: Path) -> None:
    for number, (frames, height) in enumerate(itertools.product((5, 9), (16, 32))):
        save_clip(tmp_path / "clips" / f"{number}.mp4", frames, height, 32, caption=f"clip {number}")
    data = {"kind": "clips", "source": str(tmp_path / "clips"), "sizes": [[5, 16, 32], [9, 16, 32], [5, 32, 32]]}
    recipe = build(data=data, batch_size=1)
    prepare(recipe)
    shapes = {tuple(batches(recipe)[number].latents.shape[2:]) for number in range(8)}
    assert shapes == {(2, 2, 4), (3, 2, 4), (2, 4, 4)}


@pytest.mark.parametrize(
    "values",
    [{"seed": 1}, {"batch_size": 2}, {"clips": CLIPS - 1}, {"data": {"kind": "shapes", "size": 16, "frames": 9}}],
)
def test_the_fingerprint_tells_other_batches_apart(build: Build, values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    one, other = build(folder=folder, posterior="mode"), build(folder=folder, posterior="mode", **values)
    prepare(one)
    prepare(other)
    assert batches(one).fingerprint() == batches(one).fingerprint()
    assert batches(one).fingerprint() != batches(other).fingerprint()
    assert batches(one, 0, 2).fingerprint() == batches(one, 1, 2).fingerprint() != batches(one).fingerprint()


def test_the_source_is_not_needed_any_more(build: Build, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for number in range(3):
        save_clip(clips / f"{number}.mp4", caption=f"clip {number}")
    recipe = build(data={"kind": "clips", "source": str(clips), "sizes": [[5, 16, 16]]}, folder=tmp_path / "own")
    prepare(recipe)
    before = batches(recipe)[1]
    shutil.rmtree(clips)
    shutil.move(tmp_path / "own", tmp_path / "moved")
    moved = recipe.model_copy(update={"prepared": tmp_path / "moved"})
    assert same(batches(moved)[1], before)


def test_what_was_not_prepared_or_is_gone_is_one_sentence(build: Build, tmp_path: Path) -> None:
    recipe = build(folder=tmp_path / "own")
    with pytest.raises(DataError, match="does not hold the clips of this recipe: run `cogworks data prepare RECIPE`"):
        batches(recipe)
    prepare(recipe)
    folder = prepared_folder(recipe, find_parts(recipe))
    opened = batches(recipe)
    text = folder.text_file(opened[0].captions[0])
    whole = text.read_bytes()
    text.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"is damaged .* makes it again"):
        opened[0]
    text.unlink()
    with pytest.raises(DataError, match="is missing: `cogworks data prepare RECIPE` makes it again"):
        opened[0]


def test_more_replicas_than_clips(build: Build) -> None:
    with pytest.raises(DataError, match="has 7 clips, fewer than the 8 replicas"):
        batches(build(batch_size=1), 0, 8)
