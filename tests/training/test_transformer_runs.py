"""Whole runs on every kind of model: what they write, diffusers and the next run read alike."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cogworks
from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.errors import CogworksError, RecipeError
from cogworks.training.run import export_checkpoint, train
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.transformer.start import build_model
from cogworks.weights.lora import read_lora
from helpers.small_models import TEXT_TOKENS, VARIATIONS, diffusers_pipeline

TOLERANCE = 1e-4  # that of tests/pipelines/test_pipeline_diffusers.py
FRAMES = 9


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model of each kind, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("models")
    for variation in VARIATIONS:
        diffusers_pipeline(variation).save_pretrained(folder / variation)
    return folder


def recipe(model: Path | str, output: Path, **values: Any) -> TransformerRecipe:
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": str(model),
        "output": str(output),
        "steps": 2,
        "batch_size": 2,
        "threads": 1,
        "log_every": 1,
        "optimizer": {"learning_rate": 0.01},
        "learning_rate": {"warmup_steps": 0},
        "data": {"kind": "shapes", "size": 64, "frames": FRAMES},
        **values,
    }
    parsed = parse_recipe(complete, "test")
    assert isinstance(parsed, TransformerRecipe)
    return parsed


def request(variation: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(2, 1, TEXT_TOKENS, 32, generator=generator)
    image = {}
    if variation.endswith("i2v"):
        image = {"image": np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)}
    return {
        "prompt_embeds": text[0],
        "negative_prompt_embeds": text[1],
        "num_inference_steps": 5,  # divides 1000: elsewhere diffusers walks otherwise
        "num_frames": FRAMES,
        "height": 64,
        "width": 64,
        "output_type": "pt",
        **image,
    }


def ours(folder: Path, variation: str, lora: Path | None = None) -> Tensor:
    pipe = cogworks.load(folder)
    if lora is not None:
        pipe.adapters.load_lora_weights(lora)
    frames = pipe.generate(generator=torch.Generator().manual_seed(3), **request(variation))
    assert isinstance(frames, Tensor)
    return frames


def theirs(folder: Path, variation: str, lora: Path | None = None) -> Tensor:
    from diffusers import DiffusionPipeline
    from PIL import Image

    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    asked = request(variation)
    if "image" in asked:
        asked["image"] = Image.fromarray(asked["image"])
    frames: Tensor = pipe(generator=torch.Generator().manual_seed(3), max_sequence_length=TEXT_TOKENS, **asked).frames
    return frames


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_lora_trained_here_gives_the_same_video_in_diffusers(models: Path, tmp_path: Path, variation: str) -> None:
    options = {"rank": 4, "dropout": 0.2, "targets": ["blocks.*.attention.qkv", "blocks.*.attention.out", "proj_out"]}
    file = train(recipe(models / variation, tmp_path / "run", lora=options))
    with_lora = ours(models / variation, variation, file)
    assert (with_lora - theirs(models / variation, variation, file)).abs().max() < TOLERANCE
    assert (with_lora - ours(models / variation, variation)).abs().max() > 20 * TOLERANCE
    # The next run goes on from the file, and a checkpoint of a LoRA holds no base.
    again = recipe(models / variation, tmp_path / "again", lora={"rank": 4, "start_from": str(file)}, steps=1)
    assert train(again).exists()
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert all(path.stat().st_size < 2**20 for path in checkpoints)


@pytest.mark.parametrize("variation", ["5b", "1.5-i2v"])
def test_a_model_fine_tuned_here_gives_the_same_video_in_diffusers(
    models: Path, tmp_path: Path, variation: str
) -> None:
    folder = train(recipe(models / variation, tmp_path / "run", average={"decay": 0.5}))
    tuned = ours(folder, variation)
    assert (tuned - theirs(folder, variation)).abs().max() < TOLERANCE
    assert (tuned - ours(models / variation, variation)).abs().max() > 20 * TOLERANCE


def test_what_is_not_trained_comes_along_bit_for_bit(models: Path, tmp_path: Path) -> None:
    before = cogworks.load(models / "5b").components
    after = cogworks.load(train(recipe(models / "5b", tmp_path / "run"))).components
    for name in ("vae", "text_encoder"):
        old, new = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        assert all(torch.equal(old[key], new[key]) for key in old)
    old, new = before.transformer.state_dict(), after.transformer.state_dict()
    assert not any(torch.equal(old[key], new[key]) for key in old if "qkv.weight" in key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": {"targets": ["blocks.*.atention.qkv"]}}, "near it are blocks.*.attention.qkv"),
        ({"lora": {"targets": ["blocks.*.attention.qkv:w"]}}, "row blocks there are"),
        ({"lora": {"start_from": "nowhere.safetensors"}}, "there is no LoRA at nowhere.safetensors"),
        ({"vae": "tiny"}, "the VAE makes latents of 24 channels, and the transformer learns 4"),
        ({"text_encoder": "tiny"}, "the text encoder gives embeddings of width 128, and the transformer takes 32"),
        ({"model": "cogvideox-7b"}, "did you mean cogvideox-"),
    ],
)
def test_what_does_not_fit_is_one_sentence(models: Path, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CogworksError) as caught:
        train(recipe(**{"model": models / "5b", "output": tmp_path, **values}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lora_of_another_model_is_refused(models: Path, tmp_path: Path) -> None:
    file = train(recipe("tiny", tmp_path / "run", steps=1, lora={"rank": 2}))
    with pytest.raises(CogworksError, match="is a LoRA for another model"):
        train(recipe(models / "5b", tmp_path / "other", lora={"start_from": str(file)}))


def test_any_checkpoint_of_a_run_can_be_exported(models: Path, tmp_path: Path) -> None:
    asked = recipe(models / "5b", tmp_path / "run", lora={"rank": 2}, checkpoints={"every_steps": 1})
    last = read_lora(train(asked)).pairs
    first = read_lora(export_checkpoint(asked, tmp_path / "run" / "checkpoints" / "step000001.ckpt")).pairs
    assert not any(torch.equal(one.lora_b, two.lora_b) for one, two in zip(first, last, strict=True))
    again = read_lora(export_checkpoint(asked, tmp_path / "run" / "checkpoints" / "last.ckpt")).pairs
    assert all(torch.equal(one.lora_b, two.lora_b) for one, two in zip(again, last, strict=True))
    other = recipe(models / "5b", tmp_path / "run", lora={"rank": 4})
    with pytest.raises(RecipeError, match=r"was made with lora.rank 2, and the recipe says 4"):
        export_checkpoint(other, tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_an_average_of_weights_copies_no_network_that_does_not_change(models: Path, tmp_path: Path) -> None:
    asked = recipe(models / "5b-i2v", tmp_path, average={"decay": 0.9})
    module = TransformerModule(asked, build_model(asked))
    copied = deepcopy(module)
    assert len(module.frozen) == 2
    assert all(one is other for one, other in zip(module.frozen, copied.frozen, strict=True))
    assert copied.transformer is not module.transformer


@pytest.mark.parametrize("variation", ["5b", "1.5-i2v"])
def test_a_lora_trained_in_diffusers_gives_the_same_video_here(models: Path, tmp_path: Path, variation: str) -> None:
    from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    network = CogVideoXTransformer3DModel.from_pretrained(models / variation, subfolder="transformer")
    network.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    generator = torch.Generator().manual_seed(0)
    shape = network.config.in_channels, 8, 8
    for _ in range(2):
        noisy = torch.randn(1, 4, *shape, generator=generator)
        text = torch.randn(1, TEXT_TOKENS, 32, generator=generator)
        rope = rotary_of(network, 4)
        ofs = None if network.config.ofs_embed_dim is None else torch.full((1,), 2.0)
        out = network(noisy, text, torch.tensor([500]), ofs=ofs, image_rotary_emb=rope).sample
        out.square().mean().backward()
        optimizer.step()
    CogVideoXPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=network.peft_config["default"].to_dict(),
    )
    (file,) = tmp_path.glob("*.safetensors")
    with_lora = ours(models / variation, variation, file)
    assert (with_lora - theirs(models / variation, variation, file)).abs().max() < TOLERANCE
    assert (with_lora - ours(models / variation, variation)).abs().max() > 20 * TOLERANCE


def rotary_of(network: Any, frames: int) -> Any:
    """The rotary table that diffusers' pipeline makes."""
    from diffusers import CogVideoXPipeline

    pipeline = SimpleNamespace(transformer=network, vae_scale_factor_spatial=8)
    return CogVideoXPipeline._prepare_rotary_positional_embeddings(pipeline, 64, 64, frames, torch.device("cpu"))


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8"])
def test_a_lora_trains_beside_a_base_of_any_dtype(models: Path, tmp_path: Path, base_dtype: str) -> None:
    """The base is rounded, the factors are not: they stay float32, move, and fit the base as it is published."""
    file = train(recipe(models / "5b", tmp_path, lora={"rank": 2, "base_dtype": base_dtype}))
    pairs = read_lora(file).pairs
    assert {pair.lora_b.dtype for pair in pairs} == {torch.float32}
    assert all(pair.lora_b.abs().max() > 0 for pair in pairs)
    assert torch.isfinite(ours(models / "5b", "5b", file)).all()
