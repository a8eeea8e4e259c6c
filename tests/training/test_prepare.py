"""Preparing latents and embeddings: what is made once, what is made again, and what survives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import DataError, RecipeError, RequestError, RunError
from cogworks.training.clips.batches import to_batch
from cogworks.training.clips.prepare import Prepared, prepare
from cogworks.training.clips.prepare_work import is_whole
from cogworks.training.clips.prepared import PreparedFolder, prepared_folder
from cogworks.training.clips.shapes_clips import shapes_clip
from cogworks.training.transformer.start import find_parts
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_vae, load_variant
from cogworks.weights.source import resolve
from helpers.little_clips import save_clip
from helpers.small_folder import save_small

SHAPES = {"kind": "shapes", "size": 16, "frames": 5}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of weight files are remembered for this test alone."""
    monkeypatch.setenv("COGWORKS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Callable[..., TransformerRecipe]:
    def build(**values: Any) -> TransformerRecipe:
        complete = {
            "version": 1,
            "kind": "transformer",
            "model": str(model),
            "output": str(tmp_path / "run"),
            "prepared": str(tmp_path / "prepared"),
            "steps": 1,
            "batch_size": 2,
            "threads": 1,
            "optimizer": {"learning_rate": 0.01},
            "data": SHAPES,
            "clips": 4,
            **values,
        }
        if complete["data"]["kind"] == "clips":
            complete.pop("clips")
        parsed = parse_recipe(complete, "test")
        assert isinstance(parsed, TransformerRecipe)
        return parsed

    return build


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Four clips of 9 frames, two of them alike."""
    folder = tmp_path / "clips"
    for number, height in enumerate((16, 32, 48)):
        save_clip(folder / f"{number}.mp4", 9, height, 32, caption=f"clip {number}")
    shutil.copy(folder / "0.mp4", folder / "same.mp4")
    (folder / "same.txt").write_text("clip 0")
    return folder


def files_data(source: Path, **values: Any) -> dict[str, Any]:
    return {"kind": "clips", "source": str(source), "sizes": [[5, 16, 16]], **values}


def folder_of(recipe: TransformerRecipe) -> PreparedFolder:
    return prepared_folder(recipe, find_parts(recipe))


def states(recipe: TransformerRecipe) -> dict[Path, tuple[int, int]]:
    """Every prepared file with its inode and time of change: one that was written again has others."""
    assert recipe.prepared is not None
    files = recipe.prepared.glob("[lt]*ts/*/*.safetensors")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def counts(prepared: Prepared) -> tuple[int, int, int, int]:
    return prepared.clips, prepared.new_clips, prepared.captions, prepared.new_captions


def test_latents_and_embeddings_are_those_of_the_networks(
    recipe: Callable[..., TransformerRecipe], model: Path
) -> None:
    made = recipe(posterior="mode")
    prepare(made)
    folder, source = folder_of(made), resolve(str(model))
    variant = load_variant(source)
    vae, encoder, tokenizer = load_vae(source, variant), load_text_encoder(source, variant), load_tokenizer(source)
    assert made.data.kind == "shapes"
    for index, clip in enumerate(folder.read_list().items):
        frames, caption = shapes_clip(made.data, index)
        held = load_file(folder.latents_file(clip.content, clip.bucket))
        with torch.no_grad():
            latents = vae.to_diffusion(vae.encode(to_batch([frames])).mode())[0]
            text = encoder(tokenizer.encode([caption], variant.transformer.text_tokens))[0]
        torch.testing.assert_close(held["latents"], latents, atol=0, rtol=0)
        assert torch.equal(held["image"], torch.from_numpy(frames[0]))
        torch.testing.assert_close(load_file(folder.text_file(caption))["text_emb"], text, atol=0, rtol=0)
        assert not torch.equal(load_file(folder.text_file(""))["text_emb"], text)


def test_what_is_there_is_not_made_again(recipe: Callable[..., TransformerRecipe]) -> None:
    made = recipe()
    first = prepare(made)
    assert counts(first) == (4, 4, first.captions, first.captions)
    before = states(made)
    assert first.num_bytes == sum(path.stat().st_size for path in before)
    again = prepare(made)
    assert counts(again) == (4, 0, first.captions, 0)
    assert states(made) == before
    assert again.num_bytes == first.num_bytes


def test_a_call_with_nothing_to_do_loads_no_network(
    recipe: Callable[..., TransformerRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(recipe())

    def refuse(*args: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr("cogworks.training.clips.prepare_work.load_vae_part", refuse)
    monkeypatch.setattr("cogworks.training.clips.prepare_work.load_text_part", refuse)
    prepare(recipe())
    prepare(recipe(steps=7, batch_size=4, learning_rate={"warmup_steps": 3}))  # no concern of latents
    with pytest.raises(AssertionError, match="was loaded"):
        prepare(recipe(clips=5))


@pytest.mark.parametrize(
    ("values", "new_clips", "new_captions"),
    [
        ({"clips": 5}, 1, 1),
        ({"posterior": "mode"}, 4, 0),
        ({"seed": 5}, 4, 0),
        ({"seed": 5, "posterior": "mode"}, 4, 0),
        ({"data": {**SHAPES, "fps": 4}}, 4, 0),
        ({"data": {**SHAPES, "seed": 1}}, 4, 4),
    ],
)
def test_a_change_makes_again_what_depends_on_it_and_nothing_else(
    recipe: Callable[..., TransformerRecipe], values: dict[str, Any], new_clips: int, new_captions: int
) -> None:
    prepare(recipe())
    before = states(recipe())
    made = prepare(recipe(**values))
    assert (made.new_clips, made.new_captions) == (new_clips, new_captions)
    assert before.items() <= states(recipe()).items()


def test_the_posterior_that_is_most_likely_has_no_seed(recipe: Callable[..., TransformerRecipe]) -> None:
    prepare(recipe(posterior="mode", seed=1))
    assert prepare(recipe(posterior="mode", seed=2)).new_clips == 0


def test_other_weights_are_other_latents(recipe: Callable[..., TransformerRecipe], model: Path, tmp_path: Path) -> None:
    prepare(recipe())
    copied = tmp_path / "copy"
    shutil.copytree(model, copied)
    assert prepare(recipe(model=str(copied))).new_clips == 0  # the same files under another name
    file = copied / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    changed = prepare(recipe(model=str(copied)))
    assert (changed.new_clips, changed.new_captions) == (4, 0)
    config = copied / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 1.0', '"scaling_factor": 0.5'))
    assert prepare(recipe(model=str(copied))).new_clips == 4


def test_clips_of_one_content_are_encoded_once(recipe: Callable[..., TransformerRecipe], clips: Path) -> None:
    made = recipe(data=files_data(clips))
    found = prepare(made)
    assert counts(found) == (4, 3, 4, 4)  # three captions and the empty one
    assert [clip.name for clip in folder_of(made).read_list().items] == ["0.mp4", "1.mp4", "2.mp4", "same.mp4"]


def test_a_clip_that_changes_is_encoded_again(recipe: Callable[..., TransformerRecipe], clips: Path) -> None:
    made = recipe(data=files_data(clips))
    prepare(made)
    os.utime(clips / "1.mp4", ns=(1, 1))  # looked at again, found to be the same
    assert prepare(made).new_clips == 0
    save_clip(clips / "1.mp4", 12, 32, 32, caption="another caption")
    changed = prepare(made)
    assert (changed.new_clips, changed.new_captions) == (1, 1)
    assert folder_of(made).read_list().items[1].caption == "another caption"


def test_bad_clips_are_left_out_and_told(
    recipe: Callable[..., TransformerRecipe], clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (clips / "broken.mp4").write_bytes(b"no video")
    (clips / "broken.txt").write_text("a broken clip")
    save_clip(clips / "short.mp4", 3, caption="too short")
    save_clip(clips / "silent.mp4", 9)
    made = recipe(data=files_data(clips))
    found = prepare(made)
    assert found.clips == 4
    assert sorted(fault.name for fault in found.faults) == ["broken.mp4", "short.mp4", "silent.mp4"]
    assert "left out broken.mp4" in caplog.text
    assert "short.mp4: too short: 3 frames" in caplog.text
    again = prepare(made)
    assert (again.new_clips, len(again.faults)) == (0, 3)
    assert folder_of(made).read_list().complete


def test_no_clip_that_can_be_used(recipe: Callable[..., TransformerRecipe], tmp_path: Path) -> None:
    save_clip(tmp_path / "clips" / "short.mp4", 3, caption="too short")
    with pytest.raises(DataError, match=r"none of the clips can be used; short.mp4: too short"):
        prepare(recipe(data=files_data(tmp_path / "clips")))


def test_the_prefix_is_part_of_captions_and_no_concern_of_latents(
    recipe: Callable[..., TransformerRecipe], clips: Path
) -> None:
    prepare(recipe(data=files_data(clips)))
    made = recipe(data=files_data(clips, caption_prefix="CGWX"))
    found = prepare(made)
    assert (found.new_clips, found.new_captions) == (0, 3)
    assert folder_of(made).read_list().items[0].caption == "CGWX clip 0"


def test_a_trained_text_encoder_has_no_embeddings(recipe: Callable[..., TransformerRecipe]) -> None:
    made = recipe(train_text_encoder=True)
    assert counts(prepare(made)) == (4, 4, 0, 0)
    assert not (folder_of(made).path / "texts").exists()


@pytest.mark.parametrize("view", [{"start": "random"}, {"crop": "random"}])
def test_views_that_change_are_refused(
    recipe: Callable[..., TransformerRecipe], clips: Path, view: dict[str, str]
) -> None:
    with pytest.raises(RecipeError, match="look different in every epoch and cannot be prepared"):
        prepare(recipe(data=files_data(clips, **view)))


def test_a_recipe_without_a_folder_is_refused(recipe: Callable[..., TransformerRecipe]) -> None:
    with pytest.raises(RecipeError, match="set prepared"):
        prepare(recipe(prepared=None))


def test_a_size_that_the_vae_does_not_take_is_no_fault_of_the_clips(
    recipe: Callable[..., TransformerRecipe], clips: Path
) -> None:
    with pytest.raises(RequestError, match="multiples of 8, got 18x16"):
        prepare(recipe(data=files_data(clips, sizes=[[5, 18, 16]])))


def test_damaged_files_are_made_again(recipe: Callable[..., TransformerRecipe]) -> None:
    made = recipe()
    prepare(made)
    folder = folder_of(made)
    latents = folder.latents_file(*folder.read_list().items[2][3:5])
    latents.write_bytes(latents.read_bytes()[:-7])
    text = folder.text_file("")
    text.write_bytes(b"")
    found = prepare(made)
    assert (found.new_clips, found.new_captions) == (1, 1)
    assert is_whole(latents, "latents", "image")
    assert is_whole(text, "text_emb")


def test_without_its_list_no_file_is_made_again(recipe: Callable[..., TransformerRecipe]) -> None:
    made = recipe()
    prepare(made)
    before = states(made)
    folder_of(made).list_file.write_text("{ damaged")
    assert prepare(made).new_clips == 0
    assert states(made) == before


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    recipe: Callable[..., TransformerRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogworks.training.clips import prepare_work

    save, calls = prepare_work.save_file, []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 6:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(prepare_work, "save_file", full)
    made = recipe()
    with pytest.raises(RunError, match="No space left on device"):
        prepare(made)
    assert len(states(made)) == 6
    assert not list(folder_of(made).path.rglob("*.tmp"))
    assert not folder_of(made).read_list().complete
    monkeypatch.undo()
    whole = prepare(made)
    assert whole.new_clips + whole.new_captions == whole.clips + whole.captions - 6


def test_leftovers_go_when_they_are_old(recipe: Callable[..., TransformerRecipe]) -> None:
    made = recipe()
    assert made.prepared is not None
    place = made.prepared / "latents" / "ab"
    place.mkdir(parents=True)
    for name in (".old.tmp", ".new.tmp"):
        (place / name).write_bytes(b"half")
    os.utime(place / ".old.tmp", (time.time() - 7200,) * 2)
    prepare(made)
    assert sorted(path.name for path in place.iterdir() if path.name.endswith(".tmp")) == [".new.tmp"]


def test_progress_begins_with_what_is_there(recipe: Callable[..., TransformerRecipe]) -> None:
    prepare(recipe())
    folder = folder_of(recipe())
    folder.latents_file(*folder.read_list().items[1][3:5]).unlink()
    folder.text_file("").unlink()
    told: list[tuple[str, int, int]] = []
    prepare(recipe(), on_progress=lambda *what: told.append(what))
    assert told == [("captions", 4, 5), ("clips", 3, 4), ("captions", 5, 5), ("clips", 4, 4)]


@pytest.mark.slow
@pytest.mark.dist
def test_processes_make_the_same_files(recipe: Callable[..., TransformerRecipe], clips: Path, tmp_path: Path) -> None:
    (clips / "broken.mp4").write_bytes(b"no video")
    (clips / "broken.txt").write_text("a broken clip")
    alone, together = (recipe(data=files_data(clips), prepared=str(tmp_path / name)) for name in ("one", "two"))
    found, shared = prepare(alone), prepare(together, workers=2)
    assert counts(found)[:3] == counts(shared)[:3]
    assert found.faults == shared.faults
    for path in states(alone):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()
    assert folder_of(alone).list_file.read_bytes() == folder_of(together).list_file.read_bytes()


@pytest.mark.slow
@pytest.mark.dist
def test_a_kill_at_any_moment_leaves_only_whole_files(recipe: Callable[..., TransformerRecipe], tmp_path: Path) -> None:
    made = recipe(clips=400)
    file = tmp_path / "recipe.json"
    file.write_text(made.model_dump_json())
    code = (
        "import sys; from cogworks.config.transformer_recipe import TransformerRecipe as R;"
        "from cogworks.training.clips.prepare import prepare;"
        "prepare(R.model_validate_json(open(sys.argv[1]).read()))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "prepared").glob("latents/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = states(made)
    assert 0 < sum("latents" in path.parts for path in left) < 400
    assert all(is_whole(path) for path in left)
    short = made.model_copy(update={"clips": 12})
    resumed = prepare(short)
    assert resumed.clips == 12
    assert resumed.new_clips < 12
    assert left.items() <= states(made).items()
