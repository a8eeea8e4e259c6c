"""A text-to-video model becomes one of image to video."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cogworks
from cogworks.config.recipe import parse_recipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.variants import COGVIDEOX_5B, TINY, TINY_I2V
from cogworks.errors import RecipeError
from cogworks.training.planning.networks import planned_variant
from cogworks.training.run import train
from cogworks.training.transformer.image_input import taking_image
from cogworks.training.transformer.start import build_model


def recipe(output: Path, **values: object) -> TransformerRecipe:
    parsed = parse_recipe(
        {
            "version": 1,
            "kind": "transformer",
            "model": "tiny",
            "add_image_input": True,
            "output": str(output),
            "steps": 2,
            "batch_size": 2,
            "threads": 1,
            "optimizer": {"learning_rate": 0.001},
            "learning_rate": {"warmup_steps": 0},
            "data": {"kind": "shapes", "size": 64, "frames": 9},
            **values,
        },
        "test",
    )
    assert isinstance(parsed, TransformerRecipe)
    return parsed


def test_it_begins_as_what_it_was_whatever_the_image(tmp_path: Path) -> None:
    transformer = build_model(recipe(tmp_path)).transformer.eval()
    before = cogworks.load("tiny").components.transformer
    generator = torch.Generator().manual_seed(3)
    latents, image = (torch.randn(2, 24, 3, 8, 8, generator=generator) for _ in range(2))
    text = torch.randn(2, 32, 128, generator=generator)
    times = torch.tensor([10, 700])

    with torch.no_grad():
        expected = before(latents, times, text)
        torch.testing.assert_close(transformer(torch.cat([latents, image], 1), times, text), expected)

        # The new channels are behind the old ones and are read.
        transformer.patch_embed.proj.weight[:, -1] = torch.linspace(-1, 1, 192)
        assert not torch.allclose(transformer(torch.cat([latents, image], 1), times, text), expected, atol=1e-2)


def test_a_run_learns_the_new_weights_and_its_model_takes_an_image(tmp_path: Path) -> None:
    folder = train(recipe(tmp_path, save_dtype="float32"))

    pipeline = cogworks.load(folder)
    assert pipeline.variant.name == "tiny-i2v"
    assert pipeline.variant.transformer == TINY_I2V.transformer
    weight = pipeline.components.transformer.patch_embed.proj.weight
    assert weight.shape[1] == 48 * 4
    assert (weight[:, 24 * 4 :] != 0).any(dim=0).all()
    assert planned_variant(recipe(tmp_path)).transformer == TINY_I2V.transformer


def test_other_models_get_a_name_of_their_own() -> None:
    assert taking_image(TINY) == TINY_I2V
    wider = taking_image(COGVIDEOX_5B)
    assert (wider.name, wider.hub_id, wider.transformer.in_channels) == ("cogvideox-5b-with-image", None, 32)


def test_what_cannot_take_another_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="tiny-i2v takes an image already: leave add_image_input out"):
        taking_image(TINY_I2V)
    with pytest.raises(RecipeError, match="add_image_input needs a model to begin with"):
        recipe(tmp_path, lora={"rank": 4})
