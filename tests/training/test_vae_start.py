"""What a VAE run begins with, and the recipes that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogworks.config.recipe import parse_recipe
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import TINY
from cogworks.errors import RecipeError, WeightsError
from cogworks.models.vae_posterior import Posterior
from cogworks.training.vae.linear_codec import LinearCodec
from cogworks.training.vae.losses import kl_divergence
from cogworks.training.vae.module import VAEModule
from cogworks.training.vae.start import CODEC, build_vae, new_vae
from cogworks.weights.save import save_pretrained

GOLDENS = Path(__file__).parents[1] / "golden" / "cogvideox_sat"


def _recipe(tmp_path: Path, **changes: Any) -> VAERecipe:
    values: dict[str, Any] = {"version": 1, "kind": "vae", "output": str(tmp_path), "steps": 1, "batch_size": 1}
    values |= {"optimizer": {"learning_rate": 1e-3}, "data": {"kind": "shapes", "size": 16, "frames": 9}}
    recipe = parse_recipe({**values, **({} if "model" in changes else {"variant": "tiny"}), **changes}, "it")
    assert isinstance(recipe, VAERecipe)
    return recipe


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_kl_is_that_of_the_published_trainer(frames: int) -> None:
    io = load_file(GOLDENS / "vae_v1.io.safetensors")
    posterior = Posterior.from_moments(io[f"out.moments_T{frames}"])
    # Recorded with another order of summation, over up to 240 values (tests/golden/cogvideox_sat/README.md).
    torch.testing.assert_close(kl_divergence(posterior, "sum"), io[f"out.kl_T{frames}"][0], rtol=1e-6, atol=1e-4)
    mean = kl_divergence(posterior, "mean") * posterior.mean[0].numel()
    torch.testing.assert_close(mean, kl_divergence(posterior, "sum"))
    # A batch of two copies has the same: it is an average over samples.
    twice = Posterior(*(torch.cat([moment, moment]) for moment in (posterior.mean, posterior.logvar)))
    torch.testing.assert_close(kl_divergence(twice, "sum"), kl_divergence(posterior, "sum"))


def test_a_run_begins_at_a_model_of_any_widths(tmp_path: Path) -> None:
    small = replace(TINY, vae=replace(TINY.vae, widths=(2, 2, 2, 4), latent_channels=3, scaling_factor=0.7))
    vae = new_vae(small, seed=5)
    save_pretrained(tmp_path / "model", small, vae=vae)
    module = VAEModule(_recipe(tmp_path, model=str(tmp_path / "model"), train_encoder=False))
    assert module.variant.vae == small.vae
    assert all(torch.equal(tensor, module.vae.state_dict()[name]) for name, tensor in vae.state_dict().items())
    assert module.vae.training
    assert {name.split(".")[0] for name, p in module.vae.named_parameters() if p.requires_grad} == {"decoder"}
    with pytest.raises(WeightsError):
        build_vae(_recipe(tmp_path, model=str(tmp_path / "none")))


def test_weights_are_drawn_from_the_seed_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_vae(_recipe(tmp_path)).vae.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(
        torch.equal(tensor, first[name]) for name, tensor in build_vae(_recipe(tmp_path)).vae.state_dict().items()
    )
    other = build_vae(_recipe(tmp_path, seed=1)).vae.state_dict()
    assert not torch.equal(other["encoder.conv_in.weight"], first["encoder.conv_in.weight"])


def test_the_codec_is_fitted_once_and_kept_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(tmp_path, codec={"clips": 6})
    fitted = build_vae(recipe).codec
    assert fitted is not None
    assert (tmp_path / CODEC).exists()
    monkeypatch.setattr(LinearCodec, "fit", None)
    again = build_vae(recipe).codec
    assert again is not None
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in fitted.tensors.items())
    assert build_vae(_recipe(tmp_path)).codec is None


def test_the_discriminator_leaves_the_weights_of_the_vae_as_they_are(tmp_path: Path) -> None:
    plain = VAEModule(_recipe(tmp_path))
    with_one = VAEModule(_recipe(tmp_path, discriminator={"start_step": 0, "width": 2, "stages": 1, "time_stages": 1}))
    assert all(torch.equal(p, with_one.state_dict()[name]) for name, p in plain.state_dict().items())


CLIPS = {"kind": "clips", "source": "x", "sizes": [[9, 16, 16]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "tiny", "variant": "tiny"}, "either the model to begin with or the variant"),
        ({"codec": {}, "data": CLIPS}, "fitted to the Shapes world: leave codec out"),
        (
            {"optimizer": {"kind": "muon", "learning_rate": 1e-3, "matrix_learning_rate": 1e-3}},
            "muon is for the matrices of a transformer",
        ),
        ({"precision": "bf16-true"}, "use bf16-mixed"),
        ({"samples": {"every_steps": 1, "prompts": ["a"]}}, "leave it out for a VAE"),
        ({"images": {"share": 0}}, r"images\.share"),
        ({"discriminator": {}}, r"discriminator\.start_step"),
        ({"discriminator": {"start_step": 0, "widht": 3}}, "did you mean 'width'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        _recipe(tmp_path, **changes)
    assert _recipe(tmp_path, data=CLIPS).codec is None
