"""The discriminator: shapes for clips and images, hinge losses by hand, and whose gradients flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogworks.config.recipe import parse_recipe
from cogworks.errors import RecipeError
from cogworks.training.vae.discriminator import Discriminator, judge, judge_both
from cogworks.training.vae.losses import adaptive_weight, hinge_discriminator, hinge_generator


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(3, 4, stages=3, time_stages=2)


@pytest.mark.parametrize(
    ("shape", "logits"),
    [
        ((9, 16, 24), (3, 2, 3)),  # frames 9 -> 5 -> 3, then as they are
        ((8, 16, 24), (2, 2, 3)),
        ((1, 16, 24), (1, 2, 3)),
        ((1, 3, 5), (1, 1, 1)),
    ],
)
def test_any_clip_and_any_image_gets_a_logit_for_each_patch(
    discriminator: Discriminator, shape: tuple[int, ...], logits: tuple[int, ...]
) -> None:
    assert discriminator(torch.zeros(2, 3, *shape)).shape == (2, 1, *logits)


def test_widths_double_up_to_512() -> None:
    with torch.device("meta"):
        stages = Discriminator(3, 192, stages=4, time_stages=0).stages
    assert [stage.conv2.weight.shape[0] for stage in stages] == [192, 384, 512, 512]


def test_a_logit_depends_on_its_own_clip_alone(discriminator: Discriminator) -> None:
    clips = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(discriminator(clips)[1:2], discriminator(clips[1:2]), atol=1e-6, rtol=1e-5)


def test_shortcut_after_averaging_is_averaging_after_shortcut(discriminator: Discriminator) -> None:
    stage = discriminator.stages[0]
    x = torch.randn(1, 3, 3, 5, 6, generator=torch.Generator().manual_seed(1))  # odd sizes too
    torch.testing.assert_close(stage.shortcut(stage._halve(x)), stage._halve(stage.shortcut(x)))


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(hinge_discriminator(real, fake)) == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert float(hinge_generator(fake)) == pytest.approx(2 / 3)
    assert hinge_generator(fake.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_adaptive_weight_is_its_formula_and_is_bounded(scale: float) -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)

    def ratio(first: Tensor, second: Tensor) -> float:
        return float(adaptive_weight((weight * first).sum(), (weight * second).sum(), weight, scale))

    # The gradients are (3, 4) and (0, 2): lengths 5 and 2.
    assert ratio(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])) == pytest.approx(5 / (2 + 1e-4), rel=1e-6)
    assert ratio(torch.zeros(2), torch.ones(2)) == 0
    assert ratio(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 1e4  # 5 / 1e-4 is more


def test_judging_reaches_pixels_or_weights_and_never_both(discriminator: Discriminator) -> None:
    real, fake = (torch.randn(1, 3, 2, 8, 8, requires_grad=True) for _ in range(2))
    hinge_generator(judge(discriminator, fake)).backward()
    assert fake.grad is not None
    assert all(p.grad is None for p in discriminator.parameters())
    assert torch.equal(judge(discriminator, fake), discriminator(fake))
    fake.grad = None
    real_logits, fake_logits = judge_both(discriminator, real, fake)
    torch.testing.assert_close(real_logits, discriminator(real), atol=1e-6, rtol=1e-5)
    hinge_discriminator(real_logits, fake_logits).backward()
    assert real.grad is None
    assert fake.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_a_recipe_cannot_halve_time_more_often_than_space() -> None:
    values = {"version": 1, "kind": "vae", "variant": "tiny", "output": "x", "steps": 1, "batch_size": 1}
    values |= {"optimizer": {"learning_rate": 1e-3}, "data": {"kind": "shapes"}}
    with pytest.raises(RecipeError, match=r"time_stages must be at most discriminator\.stages, 2; got 3"):
        parse_recipe({**values, "discriminator": {"start_step": 0, "stages": 2, "time_stages": 3}}, "it")
