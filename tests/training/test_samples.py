"""Sample videos: what they are, and that the run does not notice them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

import cogworks
from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import CogworksError, RecipeError
from cogworks.training.run import prepare_run, train
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.watching import samples as samples_module
from cogworks.training.watching.live_pipeline import live_pipeline, undisturbed
from cogworks.training.watching.metrics_file import METRICS, read_metrics
from cogworks.training.watching.samples import SampleVideos, read_prompts, sample_figures
from cogworks.video import read_video

CAPTION = "a red circle moves right on a black background"
SAMPLES = {"every_steps": 2, "prompts": [CAPTION, "something else"], "steps": 2, "seed": 3}


def recipe(output: Path, **values: Any) -> TransformerRecipe:
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": "tiny",
        "output": str(output),
        "steps": 3,
        "batch_size": 2,
        "threads": 1,
        "log_every": 1,
        "optimizer": {"learning_rate": 0.001},
        "learning_rate": {"warmup_steps": 0},
        "data": {"kind": "shapes", "size": 32, "frames": 1},
        **values,
    }
    parsed = parse_recipe(complete, "test")
    assert isinstance(parsed, TransformerRecipe)
    return parsed


def final_state(output: Path) -> dict[str, Any]:
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


KINDS = {
    "lora": {"lora": {"rank": 2, "dropout": 0.5}},
    "averaged": {"average": {"decay": 0.5}, "train_text_encoder": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_samples_is_the_run_without_bitwise(tmp_path: Path, kind: str) -> None:
    for name, options in (("with", SAMPLES), ("without", None)):
        train(recipe(tmp_path / name, samples=options, sentinel=None, **KINDS[kind]))
    with_samples, without = (final_state(tmp_path / name) for name in ("with", "without"))
    parts = [part for part in ("state_dict", "current_model_state", "optimizer_states") if part in without]
    assert len(parts) == (3 if kind == "averaged" else 2)
    for part in parts:
        assert equal(with_samples[part], without[part]), part
    assert not equal(with_samples["state_dict"], {key: value + 1 for key, value in without["state_dict"].items()})


def test_samples_are_the_videos_of_the_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[NDArray[np.uint8]] = []
    keep = SampleVideos._keep
    monkeypatch.setattr(SampleVideos, "_keep", lambda self, *rest: (made.extend(rest[1]), keep(self, *rest)))
    model = train(recipe(tmp_path, steps=2, average={"decay": 0.5}, samples=SAMPLES))
    pipe = cogworks.load(model, device="cpu")
    for index, prompt in enumerate(SAMPLES["prompts"]):
        video = pipe.generate(prompt, seed=3 + index, height=32, width=32, num_frames=1, num_inference_steps=2)
        assert np.array_equal(video.frames, made[index])
    files = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert files == ["step000002-00-a-red-circle-moves-right-on-a-black-back.mp4", "step000002-01-something-else.mp4"]
    assert read_video(tmp_path / "samples" / files[0]).frames.shape == (1, 32, 32, 3)
    row = read_metrics(tmp_path / METRICS)[-1]
    assert row["step"] == 2
    assert {"samples/shape", "samples/colour", "samples/motion", "samples/background"} <= row.keys()


def test_samples_are_in_tensorboard_and_go_to_who_judges_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen: list[Any] = []

    class Judge(Callback):
        def check_samples(self, videos: list[NDArray[np.uint8]]) -> None:
            seen.append([video.shape for video in videos])

    assert isinstance(Judge(), samples_module.JudgesSamples)
    from cogworks.training import callbacks, run

    wanted = recipe(tmp_path, steps=2, samples=SAMPLES)
    trainer = run.build_trainer(wanted)
    trainer.callbacks.append(Judge())
    built = prepare_run(wanted)
    trainer.fit(built.module, datamodule=built.data)
    assert seen == [[(1, 32, 32, 3)] * 2]
    assert any(
        isinstance(each, callbacks.Sentinel)
        for each in trainer.callbacks
        if isinstance(each, samples_module.JudgesSamples)
    )
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (first, *_) = events.Images("samples/00-a-red-circle-moves-right-on-a-black-back")
    assert (first.step, first.width, first.encoded_image_string[:6]) == (2, 32, b"GIF89a")


def test_peace_restores_modes_and_random_states(tmp_path: Path) -> None:
    module = prepare_run(recipe(tmp_path, lora={"rank": 1, "dropout": 0.5})).module
    assert isinstance(module, TransformerModule)
    module.transformer.blocks[0].eval()
    modes = [part.training for part in module.modules()]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    with undisturbed(module):
        torch.rand(3), random.random(), np.random.rand()
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    assert drawn == (torch.rand(1).item(), random.random(), np.random.rand())
    assert modes == [part.training for part in module.modules()]
    assert torch.is_grad_enabled()


def test_a_network_that_the_run_does_not_hold_is_read(tmp_path: Path) -> None:
    module = prepare_run(recipe(tmp_path)).module
    assert isinstance(module, TransformerModule)
    whole = live_pipeline(module).generate(CAPTION, seed=0, height=32, width=32, num_frames=1, num_inference_steps=1)
    module.model.text_encoder = module.model.vae = None
    pipe = live_pipeline(module)
    read = pipe.generate(CAPTION, seed=0, height=32, width=32, num_frames=1, num_inference_steps=1)
    assert np.array_equal(whole.frames, read.frames)
    assert pipe.components.networks.text_encoder.drop()


def test_figures_are_of_captions_of_one_object_alone() -> None:
    from cogworks.data.shapes import draw_scene, render

    index = next(n for n in range(50) if len(draw_scene(0, n).objects) == 1)
    clip, caption = render(0, index, 64, 17, 8.0, split="train")
    black = np.zeros_like(clip)
    figures = sample_figures(["free text", caption, caption], [black, clip, black])
    assert figures["samples/all_four"] == 0.5
    assert figures["samples/shape"] == 0.5
    assert sample_figures(["free text"], [clip]) == {}


def test_bad_options(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# seen\na red circle\n\na blue square\n")
    assert read_prompts(prompts) == ["a red circle", "a blue square"]
    with pytest.raises(RecipeError, match="no prompt"):
        read_prompts(())
    with pytest.raises(CogworksError, match="there is no list"):
        read_prompts(tmp_path / "missing.txt")
    image = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (32, 32)).save(image)
    with pytest.raises(RecipeError, match="image-to-video"):
        train(recipe(tmp_path / "run", samples={**SAMPLES, "image": str(image)}))
    with pytest.raises(CogworksError, match="frames must be"):
        train(recipe(tmp_path / "run", samples=SAMPLES, data={"kind": "shapes", "size": 32, "frames": 5}))
