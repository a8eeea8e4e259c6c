"""`trainer.predict` on a prompt file gives the pipeline's own videos, in one process or several."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

import cogworks
from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import RequestError
from cogworks.training.run import prepare_run
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.watching.predict import Prediction, VideoFiles, prompt_loader
from cogworks.video import read_video

PROMPTS = ["a red circle moves right on a black background", "a blue square grows on a white background", "a star"]
SMALL = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2}
LINE = '{{"prompt": "{prompt}", "height": 32, "width": 32, "num_frames": 9, "steps": 2}}'


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(LINE.format(prompt=prompt) + "\n" for prompt in PROMPTS))
    return path


def module(folder: Path) -> TransformerModule:
    torch.set_num_threads(1)
    recipe = parse_recipe(
        {
            "version": 1,
            "kind": "transformer",
            "model": "tiny",
            "output": str(folder),
            "steps": 1,
            "batch_size": 1,
            "optimizer": {"learning_rate": 0.001},
            "data": {"kind": "shapes"},
        },
        "test",
    )
    assert isinstance(recipe, TransformerRecipe)
    made = prepare_run(recipe).module
    assert isinstance(made, TransformerModule)
    return made


def trainer(folder: Path, **options: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[VideoFiles(folder)],
        **options,  # type: ignore[arg-type]
    )


def expected() -> list[np.ndarray]:
    pipe = cogworks.load("tiny", device="cpu")
    return [pipe.generate(prompt, seed=number, **SMALL).frames for number, prompt in enumerate(PROMPTS, start=1)]


def test_predictions_are_the_videos_of_the_pipeline(tmp_path: Path, prompts: Path) -> None:
    made = trainer(tmp_path / "videos", devices=1).predict(module(tmp_path), dataloaders=prompt_loader(prompts))
    assert made is not None
    frames = expected()
    assert len(made) == len(frames)
    for place, (prediction, video) in enumerate(zip(made, frames, strict=True)):
        assert isinstance(prediction, Prediction)
        assert (prediction.place, prediction.request.prompt) == (place, PROMPTS[place])
        assert np.array_equal(prediction.video.frames, video)
    assert not np.array_equal(frames[0], frames[1])
    files = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert files[2] == "002-a-star.mp4"
    assert read_video(tmp_path / "videos" / files[2]).frames.shape == (9, 32, 32, 3)


def test_two_processes_make_each_video_once(tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write = VideoFiles.write_on_batch_end

    def keep(self: VideoFiles, run: L.Trainer, one: L.LightningModule, prediction: Prediction, *rest: object) -> None:
        np.save(raw / f"{prediction.place}-{run.global_rank}.npy", prediction.video.frames)
        write(self, run, one, prediction, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoFiles, "write_on_batch_end", keep)
    shared = trainer(tmp_path / "videos", devices=2, strategy="ddp_fork")
    shared.predict(module(tmp_path), dataloaders=prompt_loader(prompts), return_predictions=False)
    assert sorted(path.name for path in raw.iterdir()) == ["0-0.npy", "1-1.npy", "2-0.npy"]
    for place, video in enumerate(expected()):
        (path,) = raw.glob(f"{place}-*.npy")
        assert np.array_equal(np.load(path), video)
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 3


def test_a_bad_line_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "heigth": 3}\n')
    with pytest.raises(RequestError, match="line 1"):
        prompt_loader(path)
