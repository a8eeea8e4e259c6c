"""The recipes of the bundled model, short: they train, follow one another, and export what `cogworks.load` reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import cogworks
from cogworks.config.recipe import load_recipe
from cogworks.errors import CogworksError
from cogworks.models.vae import VAE
from cogworks.training.run import train
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.training.watching.metrics_file import read_metrics
from cogworks.weights.fingerprint import part_hash
from cogworks.weights.load import load_vae, load_variant
from cogworks.weights.source import resolve

FOLDER = Path(__file__).parents[2] / "recipes"
SHORT = ["data.size=32", "data.frames=9", "batch_size=2", "log_every=1", "learning_rate.warmup_steps=1", "threads=1"]
SMALL_VAE = ["crops.size=16", "crops.whole_batch_size=1", "crops.until=0.5"]
# Recorded at commit a7274a4, by the first trainer, with the same codec.
RECORDED = (0.3846987783908844, 0.2090725302696228, 0.39828062057495117)


def made_up_codec(path: Path) -> Path:
    """A codec of random numbers: no eigenvectors, whose signs may differ from machine to machine."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for kind, size in (("first", 192), ("rest", 768)):
        tensors[f"{kind}.mean"] = torch.rand(size, generator=generator) - 0.5
        tensors[f"{kind}.basis"] = (torch.rand(24, size, generator=generator) - 0.5) * (12 / size) ** 0.5
        tensors[f"{kind}.gain"] = torch.rand(24, generator=generator)
    LinearCodec(tensors).save(path)
    return path


def test_the_transformer_recipe_gives_the_losses_it_gave(tmp_path: Path) -> None:
    codec = made_up_codec(tmp_path / "codec.safetensors")
    words = [*SHORT, "steps=3", f"output={tmp_path / 'run'}", f"codec={codec}", f"vae={tmp_path / 'none'}"]
    words += ["text_encoder=null", "train_text_encoder=true"]  # as it was when the losses were recorded
    train(load_recipe(FOLDER / "tiny-t2v.yaml", words))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert losses == pytest.approx(RECORDED, rel=1e-5)


@pytest.mark.slow
def test_the_recipes_of_the_bundled_model_follow_one_another(tmp_path: Path) -> None:
    def run(recipe: str, *words: str) -> Path:
        return train(load_recipe(FOLDER / f"{recipe}.yaml", [*SHORT, "steps=3", *words]))

    text = run("tiny-text-encoder", f"output={tmp_path / 'text'}")
    vae = run("tiny-vae", *SMALL_VAE, "codec.clips=4", f"output={tmp_path / 'vae'}")
    codec = tmp_path / "vae" / "codec.safetensors"
    first = run("tiny-t2v", f"vae={vae}", f"codec={codec}", f"text_encoder={text}", f"output={tmp_path / 't2v'}")
    decoder = run("tiny-vae-decoder", *SMALL_VAE, f"model={vae}", f"output={tmp_path / 'decoder'}")
    joint = run("tiny-vae-joint", *SMALL_VAE, "codec.clips=4", f"model={decoder}", f"output={tmp_path / 'joint'}")
    last = run("tiny-vae-last", *SMALL_VAE, f"model={joint}", f"output={tmp_path / 'last'}")
    for earlier, later, frozen in ((vae, decoder, "encoder."), (decoder, joint, "nothing"), (joint, last, "encoder.")):
        before, after = load_model_vae(earlier).state_dict(), load_model_vae(later).state_dict()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]) == name.startswith(frozen), name
    words = (f"prepared={tmp_path / 'prepared'}", "clips=4")
    model = run("tiny-t2v-encoder", *words, f"model={first}", f"vae={last}", f"output={tmp_path / 'refined'}")
    video = cogworks.load(model).generate("a red circle moves right", seed=1, num_inference_steps=2, num_frames=9)
    assert video.frames.shape == (9, 64, 64, 3)
    kept = load_model_vae(model).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in after.items())

    animated = run("tiny-i2v", *words, f"model={model}", f"output={tmp_path / 'animated'}")
    image = Image.new("RGB", (64, 64), "navy")
    pipeline = cogworks.load(animated)
    video = pipeline.generate("a red circle grows", image=image, seed=1, num_inference_steps=2, num_frames=9)
    assert (pipeline.variant.name, video.frames.shape) == ("tiny-i2v", (9, 64, 64, 3))
    assert part_hash(resolve(animated), "text_encoder") == part_hash(resolve(text), "text_encoder")
    for part in ("vae", "text_encoder"):
        assert part_hash(resolve(animated), part) == part_hash(resolve(model), part)  # one copy serves both


def load_model_vae(folder: Path) -> VAE:
    model = resolve(folder, local_files_only=True)
    return load_vae(model, load_variant(model))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("codec=none.safetensors", "there is no linear codec at none.safetensors: start the recipe of the VAE first"),
        ("codec=null vae=nowhere/model", "nowhere/model"),
        ("variant=small", "no variant named 'small'"),
        ("vae=null", "from nothing, name under vae the model whose VAE makes the latents"),
        ("model=tiny", "either the model to begin with or the variant"),
        ("text_encoder=null", "from nothing the text encoder is either trained along"),
    ],
)
def test_what_a_run_lacks_is_one_sentence(tmp_path: Path, words: str, message: str) -> None:
    short = [*SHORT, f"output={tmp_path / 'run'}", "vae=tiny", "text_encoder=tiny"]
    with pytest.raises(CogworksError) as caught:
        train(load_recipe(FOLDER / "tiny-t2v.yaml", [*short, *words.split()]))
    assert message in str(caught.value)
