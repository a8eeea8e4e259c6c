"""Steps of VAE training: the losses that the bundled recipes always had, the adversary, images, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

from cogworks.config.recipe import load_recipe, parse_recipe
from cogworks.config.training_data import ShapesData
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.variants import TINY
from cogworks.errors import RecipeError
from cogworks.training.batches import PixelBatch, ShapesBatches
from cogworks.training.data_module import Numbers
from cogworks.training.linear_codec import LinearCodec
from cogworks.training.vae_module import VAEModule
from cogworks.training.vae_start import TrainingVAE, new_vae

FOLDER = Path(__file__).parents[2] / "recipes"
MICRO = replace(
    TINY,
    vae=replace(TINY.vae, widths=(4, 4, 4), latent_channels=4, layers_per_block=1, norm_groups=2),
)
PERCEPTUAL: dict[str, Any] = {"weight": 0.1}
DISCRIMINATOR: dict[str, Any] = {"start_step": 0, "width": 4, "stages": 2, "time_stages": 1}


def micro_recipe(tmp_path: Path, **changes: Any) -> VAERecipe:
    values: dict[str, Any] = {
        "version": 1,
        "kind": "vae",
        "variant": "tiny",
        "output": str(tmp_path),
        "steps": 10,
        "batch_size": 2,
        "threads": 1,
        "optimizer": {"learning_rate": 3e-3},
        "learning_rate": {"warmup_steps": 0},
        "data": {"kind": "shapes", "size": 16, "frames": 9},
    }
    recipe = parse_recipe({**values, **changes}, "micro")
    assert isinstance(recipe, VAERecipe)
    return recipe


def micro_module(recipe: VAERecipe) -> VAEModule:
    return VAEModule(recipe, TrainingVAE(MICRO, new_vae(MICRO, recipe.seed), None))


def batch_of(recipe: VAERecipe, number: int = 0) -> PixelBatch:
    assert isinstance(recipe.data, ShapesData)
    return ShapesBatches(recipe.data, recipe.batch_size)[number]


class Recorder(L.Callback):
    """The metrics of every batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.rows.append({name: float(value) for name, value in trainer.logged_metrics.items()})


class Keep(L.Callback):
    """A checkpoint after each of these steps, at `path` and the number of the step."""

    def __init__(self, path: Path, steps: set[int]) -> None:
        self.path = path
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step in self.steps:
            self.steps.remove(trainer.global_step)  # the next part of an accumulated batch comes at the same step
            trainer.save_checkpoint(f"{self.path}{trainer.global_step}")


def fit(
    module: VAEModule, *callbacks: L.Callback, start: int = 0, stop: int | None = None, checkpoint: Path | None = None
) -> L.Trainer:
    """Steps `start` to `stop` of a recipe, with a trainer like that of a run."""
    recipe = module.recipe
    assert isinstance(recipe.data, ShapesData)
    trainer = L.Trainer(
        max_steps=stop or recipe.steps,
        accelerator="cpu",
        devices=1,
        precision=recipe.precision,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    parts = recipe.accumulate
    batches = ShapesBatches(recipe.data, recipe.batch_size // parts)
    loader = DataLoader(batches, batch_size=None, sampler=Numbers(start * parts))  # type: ignore[arg-type]  # it has no length
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


def made_up_codec(channels: int) -> LinearCodec:
    """A codec of random numbers: no eigenvectors, whose signs may differ from machine to machine."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for kind, size in (("first", 192), ("rest", 768)):
        tensors[f"{kind}.mean"] = torch.rand(size, generator=generator) - 0.5
        tensors[f"{kind}.basis"] = (torch.rand(channels, size, generator=generator) - 0.5) * (12 / size) ** 0.5
        tensors[f"{kind}.gain"] = torch.rand(channels, generator=generator)
    return LinearCodec(tensors)


SHORT = ["data.size=32", "data.frames=9", "batch_size=2", "steps=3", "learning_rate.warmup_steps=1"]
SMALL = ["crops.size=16", "crops.whole_batch_size=1", "crops.until=0.6"]
# Recorded at commit a7274a4, before this module learned anything new, with the same codec and data.
RECORDED = {
    "tiny-vae": {
        "loss": (2.6534171104431152, 3.290876865386963, 1.7653560638427734),
        "psnr": (9.76791763305664, 8.14252758026123, 10.897897720336914),
        "codec_distance": (0.2797110378742218, 0.3274102509021759, 0.6965069770812988),
        "kl": (2.520808219909668, 2.5459694862365723, 2.782107353210449),
    },
    "tiny-vae-decoder": {
        "loss": (2.107546329498291, 1.5366010665893555, 3.260054588317871),
        "psnr": (10.224089622497559, 12.190988540649414, 8.06178092956543),
    },
}


@pytest.mark.parametrize("name", RECORDED)
def test_bundled_recipes_give_the_losses_they_always_gave(name: str) -> None:
    codec = ["codec.joint_from=0.33"] if name == "tiny-vae" else []
    recipe = load_recipe(FOLDER / f"{name}.yaml", [*SHORT, *SMALL, *codec])
    assert isinstance(recipe, VAERecipe)
    model = TrainingVAE(TINY, new_vae(TINY, recipe.seed), made_up_codec(24) if recipe.codec else None)
    recorder = Recorder()
    fit(VAEModule(recipe, model), recorder)
    for metric, recorded in RECORDED[name].items():
        assert [row[metric] for row in recorder.rows] == pytest.approx(recorded, rel=1e-5), metric


def test_discriminator_and_vae_get_their_own_gradients_alone(tmp_path: Path) -> None:
    """After one backward pass each has the gradient of its own loss, as if the other were a constant."""
    recipe = micro_recipe(tmp_path, discriminator=DISCRIMINATOR)
    module, batch = micro_module(recipe), batch_of(recipe)
    loss, terms = module.losses(batch, step=0)
    loss.backward()
    together = {name: _gradient(p) for name, p in module.named_parameters()}

    module.zero_grad()
    _, terms = module.losses(batch, step=0)
    assert module.discriminator is not None
    terms["discriminator"].backward(retain_graph=True)
    assert all(p.grad is None for p in module.vae.parameters())
    for name, parameter in module.discriminator.named_parameters():
        assert torch.equal(_gradient(parameter), together[f"discriminator.{name}"]), name

    module.zero_grad()
    (terms["loss"] + 0.5 * terms["adaptive_weight"] * terms["adversarial"]).backward()
    assert all(p.grad is None for p in module.discriminator.parameters())
    for name, parameter in module.vae.named_parameters():
        torch.testing.assert_close(_gradient(parameter), together[f"vae.{name}"], atol=1e-7, rtol=1e-4)
    # Negative control: without the adversary the VAE's gradient is another one.
    module.zero_grad()
    module.losses(batch, step=0)[1]["loss"].backward()
    assert not torch.allclose(_gradient(module.vae.decoder.conv_out.weight), together["vae.decoder.conv_out.weight"])


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def test_the_adaptive_weight_makes_both_gradients_equal_at_the_last_layer(tmp_path: Path) -> None:
    recipe = micro_recipe(tmp_path, discriminator=DISCRIMINATOR, kl_weight=0.0)
    module = micro_module(recipe)
    _, terms = module.losses(batch_of(recipe), step=0)
    last = module.vae.decoder.conv_out.weight
    nll, deceived = (torch.autograd.grad(terms[name], last, retain_graph=True)[0] for name in ("loss", "adversarial"))
    expected = nll.norm() / (deceived.norm() + 1e-4)
    torch.testing.assert_close(terms["adaptive_weight"], expected, rtol=1e-5, atol=0)
    assert not terms["adaptive_weight"].requires_grad
    fixed = micro_recipe(tmp_path, discriminator={**DISCRIMINATOR, "adaptive": False})
    assert micro_module(fixed).losses(batch_of(fixed), step=0)[1]["adaptive_weight"] == 1


def test_the_adversary_waits_for_its_step(tmp_path: Path) -> None:
    """Before it, all is as without a discriminator, bit for bit, and the discriminator has not moved."""
    alone = micro_module(micro_recipe(tmp_path, steps=4))
    fit(alone, before := Recorder())
    waiting = micro_module(micro_recipe(tmp_path, steps=4, discriminator={**DISCRIMINATOR, "start_step": 3}))
    assert waiting.discriminator is not None
    drawn = {name: p.detach().clone() for name, p in waiting.discriminator.named_parameters()}
    seen = Recorder()
    trainer = fit(waiting, seen, stop=3)
    assert [row["loss"] for row in seen.rows] == [row["loss"] for row in before.rows[:3]]
    assert not any("adversarial" in row for row in seen.rows)
    assert all(torch.equal(p, drawn[name]) for name, p in waiting.discriminator.named_parameters())
    moments = trainer.optimizers[0].state
    assert not any(p in moments for p in waiting.discriminator.parameters())
    trainer.save_checkpoint(tmp_path / "three.ckpt")

    started = micro_module(waiting.recipe)
    fit(started, after := Recorder(), start=3, checkpoint=tmp_path / "three.ckpt")
    assert started.discriminator is not None
    assert after.rows[0]["loss"] == before.rows[3]["loss"]
    assert after.rows[0]["adaptive_weight"] > 0
    assert not torch.equal(started.discriminator.head.weight, drawn["head.weight"])
    assert _differ(alone.vae, started.vae)


def _differ(a: torch.nn.Module, b: torch.nn.Module) -> list[str]:
    second = b.state_dict()
    return [name for name, tensor in a.state_dict().items() if not torch.equal(tensor, second[name])]


def test_vae_and_discriminator_are_clipped_apart(tmp_path: Path) -> None:
    module = micro_module(micro_recipe(tmp_path, discriminator=DISCRIMINATOR))
    assert module.discriminator is not None
    for scale, network in ((100.0, module.vae), (1e-3, module.discriminator)):
        for parameter in network.parameters():
            parameter.grad = scale * torch.ones_like(parameter)
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters()), 1.0)
    norm = torch.stack([p.grad.norm() for p in module.vae.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-4, atol=0)
    assert all((p.grad == 1e-3).all() for p in module.discriminator.parameters() if p.grad is not None)


def test_a_short_run_with_everything_lowers_the_error(tmp_path: Path) -> None:
    recipe = micro_recipe(
        tmp_path,
        steps=30,
        batch_size=4,
        perceptual=PERCEPTUAL,
        discriminator={**DISCRIMINATOR, "start_step": 10},
        optimizer={"learning_rate": 1e-2},
    )
    module, unseen = micro_module(recipe), batch_of(recipe, 100)
    before = float(module.losses(unseen, step=0)[1]["absolute"])
    fit(module)
    after = float(module.losses(unseen, step=0)[1]["absolute"])
    assert after < 0.8 * before


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    """Weights, averages and both optimizers' moments; stopped before and after the discriminator has begun."""
    recipe = micro_recipe(
        tmp_path,
        steps=6,
        batch_size=4,
        accumulate=2,
        perceptual=PERCEPTUAL,
        discriminator={**DISCRIMINATOR, "start_step": 3},
        images={"share": 0.5},
        crops={"size": 8, "frames": 9, "until": 0.5, "whole_batch_size": 1},
        latent_noise=0.1,
        train_encoder=True,
    )
    recipe = recipe.model_copy(update={"perceptual": None}) if stop == 2 else recipe
    fit(micro_module(recipe), WeightAveraging(), Keep(tmp_path / "unbroken", {stop, 6}))
    first = tmp_path / f"unbroken{stop}"
    fit(micro_module(recipe), WeightAveraging(), Keep(tmp_path / "resumed", {6}), start=stop, checkpoint=first)
    unbroken, resumed = (torch.load(tmp_path / f"{name}6", weights_only=True) for name in ("unbroken", "resumed"))
    for part in ("current_model_state", "state_dict"):
        assert unbroken[part].keys() == resumed[part].keys()
        for key, tensor in unbroken[part].items():
            assert torch.equal(tensor, resumed[part][key]), (part, key)
    moments, again = (each["optimizer_states"][0]["state"] for each in (unbroken, resumed))
    assert moments.keys() == again.keys()
    for index, state in moments.items():
        assert all(torch.equal(value, again[index][key]) for key, value in state.items())
    # Negative control: the run did move after it was stopped, the discriminator too.
    stopped = torch.load(first, weights_only=True)["current_model_state"]
    for key in ("vae.decoder.conv_out.weight", "discriminator.head.weight"):
        assert not torch.equal(stopped[key], resumed["current_model_state"][key])


def test_images_are_whole_batches_and_the_same_on_every_replica(tmp_path: Path) -> None:
    recipe = micro_recipe(tmp_path, images={"share": 0.5}, discriminator=DISCRIMINATOR)
    module = micro_module(recipe)
    frames: list[list[int]] = [[], []]
    module.vae.encoder.register_forward_pre_hook(lambda _, inputs: frames[replica].append(inputs[0].shape[2]))
    for replica in (0, 1):
        for number in range(8):
            module.losses(batch_of(recipe)._replace(number=number), step=0, replica=replica)
    assert frames[0] == frames[1]
    assert set(frames[0]) == {1, 9}
    first = micro_recipe(tmp_path, images={"share": 1.0, "frame": "first"})
    seen: list[Tensor] = []
    module = micro_module(first)
    module.vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.losses(batch_of(first), step=0)
    assert torch.equal(seen[0], batch_of(first).pixels[:, :, :1])


def test_computing_activations_again_changes_nothing(tmp_path: Path) -> None:
    gradients = []
    for again in (False, True):
        recipe = micro_recipe(tmp_path, activation_checkpointing=again, discriminator=DISCRIMINATOR)
        module = micro_module(recipe)
        module.losses(batch_of(recipe), step=0)[0].backward()
        gradients.append({name: _gradient(p) for name, p in module.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_half_precision_computes_its_losses_in_float32(tmp_path: Path) -> None:
    recipe = micro_recipe(tmp_path, perceptual=PERCEPTUAL, discriminator=DISCRIMINATOR)
    module = micro_module(recipe)
    exact, _ = module.losses(batch_of(recipe), step=0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = module.losses(batch_of(recipe), step=0)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    loss.backward()
    assert all(_gradient(p).isfinite().all() for p in module.parameters())
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)  # bfloat16 has 8 bits
    assert loss != exact  # the networks did compute in bfloat16


def test_crops_must_fit_the_clips(tmp_path: Path) -> None:
    recipe = micro_recipe(tmp_path, crops={"size": 32, "frames": 9})
    with pytest.raises(RecipeError, match=r"crops are 9x32x32 .* and the clips 9x16x16: take smaller crops"):
        micro_module(recipe).losses(batch_of(recipe), step=0)


def test_clips_must_have_frames_that_come_back(tmp_path: Path) -> None:
    recipe = micro_recipe(tmp_path, data={"kind": "shapes", "size": 16, "frames": 13})
    with pytest.raises(RecipeError, match=r"clips of 13 frames do not come back .* take 1, 8k or 8k \+ 1"):
        micro_module(recipe).losses(batch_of(recipe), step=0)


def test_pictures_are_compared_by_one_frame_or_by_all(tmp_path: Path) -> None:
    seen: dict[tuple[str, float], tuple[int, float]] = {}
    for frames in ("one", "all"):
        for share in (1e-9, 1.0):  # clips alone, images alone
            images = {"share": share, "frame": "first"}
            recipe = micro_recipe(tmp_path, perceptual={"frames": frames}, images=images)
            module = micro_module(recipe)
            counts: list[int] = []
            module.frozen[0].register_forward_pre_hook(lambda _, inputs, seen=counts: seen.append(len(inputs[0])))
            _, terms = module.losses(batch_of(recipe), step=0)
            seen[frames, share] = counts[0], float(terms["perceptual"])
    assert {key: count for key, (count, _) in seen.items()} == {
        ("one", 1e-9): 2, ("all", 1e-9): 18, ("one", 1.0): 2, ("all", 1.0): 2,
    }  # fmt: skip
    assert seen["one", 1.0] == seen["all", 1.0]
