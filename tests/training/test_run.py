"""Whole runs, short: both recipes of the bundled model train, resume, and export what `cogworks.load` reads."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import cogworks
from cogworks.config.recipe import load_recipe
from cogworks.errors import RecipeError
from cogworks.models.vae import VAE
from cogworks.training.batches import LatentBatch
from cogworks.training.export import CHECKPOINT, read_checkpoint
from cogworks.training.latents import encoder_of
from cogworks.training.run import build_batches, known_variant, train
from cogworks.training.transformer_module import TransformerModule
from cogworks.weights.load import load_vae, load_variant
from cogworks.weights.source import resolve

FOLDER = Path(__file__).parents[2] / "recipes"
SHORT = ["data.size=32", "data.frames=9", "batch_size=2", "log_every=1", "warmup_steps=1", "threads=1"]


def _vae(tmp_path: Path, *overrides: str) -> list[str]:
    small = ["codec_clips=4", "crop_size=16", "full_batch_size=1", f"output={tmp_path / 'vae'}"]
    return [*SHORT, *small, "steps=4", "joint_from=0.25", "full_size_from=0.5", *overrides]


def _t2v(tmp_path: Path, *overrides: str) -> list[str]:
    return [*SHORT, f"output={tmp_path / 't2v'}", f"vae={tmp_path / 'vae'}", "steps=4", *overrides]


def load_model_vae(folder: Path) -> VAE:
    model = resolve(folder, local_files_only=True)
    return load_vae(model, load_variant(model))


@pytest.mark.slow
def test_both_recipes_train_export_and_generate(tmp_path: Path) -> None:
    assert train(load_recipe(FOLDER / "tiny-vae.yaml", _vae(tmp_path))) == tmp_path / "vae" / "model"
    model = train(load_recipe(FOLDER / "tiny-t2v.yaml", _t2v(tmp_path)))
    with (tmp_path / "t2v" / "logs" / "from000000" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert len(losses) == 4
    assert all(0.2 < loss < 3 for loss in losses)  # v has unit variance and the first prediction is zero
    video = cogworks.load(model).generate("a red circle moves right", seed=1, num_inference_steps=2, num_frames=9)
    assert video.frames.shape == (9, 64, 64, 3)
    # The second stages go on from the averaged weights of the first.
    decoder = load_recipe(
        FOLDER / "tiny-vae-decoder.yaml",
        [*_vae(tmp_path), f"start_from={tmp_path / 'vae'}", f"output={tmp_path / 'decoder'}"],
    )
    second = load_model_vae(train(decoder)).state_dict()
    for name, before in load_model_vae(tmp_path / "vae" / "model").state_dict().items():
        assert torch.equal(before, second[name]) == name.startswith("encoder."), name
    folders = {"start_from": "t2v", "output": "t2v-encoder", "vae": "decoder"}
    refined = [*_t2v(tmp_path), "cached_clips=4", *(f"{key}={tmp_path / name}" for key, name in folders.items())]
    recipe = load_recipe(FOLDER / "tiny-t2v-encoder.yaml", refined)
    assert encoder_of(recipe, known_variant("tiny"))(torch.zeros(1, 3, 9, 32, 32)).shape == (1, 24, 3, 4, 4)
    assert train(recipe).exists()


@pytest.mark.slow
def test_an_interrupted_run_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(load_recipe(FOLDER / "tiny-vae.yaml", _vae(tmp_path)))

    def run(name: str) -> dict[str, torch.Tensor]:
        overrides = _t2v(tmp_path, f"output={tmp_path / name}", "checkpoint_minutes=1e-9")
        train(load_recipe(FOLDER / "tiny-t2v.yaml", overrides))
        return read_checkpoint(tmp_path / name / CHECKPOINT)["current_model_state"]

    unbroken = run("unbroken")
    step = TransformerModule.training_step

    def interrupted(self: TransformerModule, batch: LatentBatch, batch_index: int) -> torch.Tensor:
        if batch.number == 2:
            raise KeyboardInterrupt
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(TransformerModule, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("resumed")
    assert read_checkpoint(tmp_path / "resumed" / CHECKPOINT)["global_step"] == 2
    resumed = run("resumed")
    assert resumed.keys() == unbroken.keys()
    for key, tensor in unbroken.items():
        assert torch.equal(tensor, resumed[key]), key


def test_a_transformer_run_without_its_vae_says_so(tmp_path: Path) -> None:
    recipe = load_recipe(FOLDER / "tiny-t2v.yaml", _t2v(tmp_path))
    with pytest.raises(RecipeError, match=r"start the recipe of the VAE first"):
        build_batches(recipe, known_variant("tiny"), 0)
    recipe = load_recipe(FOLDER / "tiny-t2v.yaml", _t2v(tmp_path, "latents=encoder"))
    with pytest.raises(RecipeError, match=r"vae has no last.ckpt: run its recipe first"):
        build_batches(recipe, known_variant("tiny"), 0)
    with pytest.raises(RecipeError, match="no variant named 'small'"):
        known_variant("small")
