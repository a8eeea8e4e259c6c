"""One step of VAE training: whose gradients flow, how they are weighed and clipped, what a step sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogworks.errors import RecipeError
from cogworks.training.vae.losses import ERROR_FLOOR, error_decibels
from helpers.micro_vae import DISCRIMINATOR, PERCEPTUAL, batch_of, micro_module, micro_recipe


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


def test_in_decibels_a_clip_counts_by_the_ratio_of_its_error(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 3, 9, 8, 8)
    errors = torch.tensor([0.5, 0.05]).view(2, 1, 1, 1, 1)
    decoded = (pixels + errors).requires_grad_()

    decibels = error_decibels(decoded, pixels)
    expected = 10 * torch.log10(torch.tensor([0.25, 0.0025]) / ERROR_FLOOR).mean()
    torch.testing.assert_close(decibels, expected, rtol=1e-3, atol=0)
    assert error_decibels(pixels, pixels) == 0

    # A tenth of the error has ten times the gradient; of the squared error it has a tenth.
    (gradient,) = torch.autograd.grad(decibels, decoded)
    (plain,) = torch.autograd.grad(torch.nn.functional.mse_loss(decoded, pixels), decoded)
    assert (gradient[1] / gradient[0]).mean() == pytest.approx(10, rel=0.01)
    assert (plain[1] / plain[0]).mean() == pytest.approx(0.1)


def test_the_decibels_of_the_error_are_part_of_the_loss(tmp_path: Path) -> None:
    plain, weighted = micro_recipe(tmp_path), micro_recipe(tmp_path, decibel_weight=0.25)
    without, _ = micro_module(plain).losses(batch_of(plain), step=0)
    loss, terms = micro_module(weighted).losses(batch_of(weighted), step=0)
    torch.testing.assert_close(loss - without, 0.25 * terms["decibels"])
    assert terms["decibels"] > 1
