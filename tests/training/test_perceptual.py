"""The perceptual loss: LPIPS by its formula, its weights from files, and the substitute's properties."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cogworks.config.recipe import parse_recipe
from cogworks.config.vae_recipe import PerceptualOptions
from cogworks.errors import DataError, RecipeError, WeightsError
from cogworks.training.vae.perceptual import build_perceptual, gabor_kernels, unit

# VGG16, configuration D, with a few channels instead of 64 to 512; M is a maximum over 2x2.
LAYOUT: tuple[int | str, ...] = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 6, 6, 6)
TAPS = (3, 8, 15, 22, 29)  # the last ReLU of each stage, in torchvision's list of layers


def _layers() -> nn.Sequential:
    """The layers as torchvision lists them, which is where the numbers in the names come from."""
    layers: list[nn.Module] = []
    before = 3
    for width in LAYOUT:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    layers = _layers()
    for parameter in layers.parameters():
        scale = 0.5 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return layers


@pytest.fixture(scope="module")
def heads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    widths = (4, 6, 8, 8, 6)
    return {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in enumerate(widths)}


def _vgg_state(network: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": tensor.detach() for name, tensor in network.state_dict().items()}


def _pictures(seed: int, size: int = 24) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _by_hand(network: nn.Sequential, heads: dict[str, Tensor], a: Tensor, b: Tensor) -> list[float]:
    """LPIPS by its definition: pixels centred by ImageNet's statistics, unit features, weighted squares, means."""
    distances = []
    for first, second in zip(a.double(), b.double(), strict=True):
        total = 0.0
        x, y = (
            (picture[None] - torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1))
            / torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
            for picture in (first, second)
        )
        for index, layer in enumerate(network):
            x, y = layer.double()(x), layer.double()(y)
            if index in TAPS:
                head = heads[f"lin{TAPS.index(index)}.model.1.weight"].double()
                squares = (x / (x.norm(dim=1, keepdim=True) + 1e-10) - y / (y.norm(dim=1, keepdim=True) + 1e-10)) ** 2
                total += float(nn.functional.conv2d(squares, head).mean())
        distances.append(total)
    network.float()
    return distances


@pytest.mark.parametrize("form", ["two pickles", "one safetensors"])
def test_lpips_is_its_formula(
    form: str,
    network: nn.Sequential,
    heads: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = _vgg_state(network)
    if form == "two pickles":
        torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
        torch.save(heads, tmp_path / "heads.pth")
        options = PerceptualOptions(vgg=tmp_path / "vgg16.pth", heads=tmp_path / "heads.pth")
    else:
        save_file({**state, **heads}, tmp_path / "lpips.safetensors")
        options = PerceptualOptions(vgg=tmp_path / "lpips.safetensors")
    with caplog.at_level(logging.INFO):
        lpips = build_perceptual(options)
    assert "LPIPS with VGG16 of" in caplog.text
    a, b = _pictures(2), _pictures(3)
    expected = _by_hand(network, heads, a, b)
    assert lpips(a, b).tolist() == pytest.approx(expected, rel=1e-4)  # float32 against float64
    assert lpips(a, a).tolist() == [0, 0]
    # Negative control: without the centring of pixels it is another number.
    lpips.features.get_buffer("shift").zero_()
    assert lpips(a, b).tolist() != pytest.approx(expected, rel=1e-2)


def test_gradients_are_finite_where_a_layer_sees_nothing() -> None:
    """The published formula divides zero by zero there."""
    features = torch.zeros(1, 3, 1, 1, requires_grad=True)
    unit(features.relu(), 1e-10).square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    x = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(unit(x, 1e-10).flatten(), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.bias": None}, r"lacks features\.0\.bias and 0 more: expected features\.0\.weight"),
        ({"features.30.weight": torch.zeros(1)}, r"holds features\.30\.weight and 0 more, which do not belong there"),
        ({"features.2.weight": torch.zeros(4, 5, 3, 3)}, r"features\.2 has weights of shape \(4, 5, 3, 3\), expected"),
        ({"lin1.model.1.weight": torch.zeros(1, 5, 1, 1)}, r"lin1\.model\.1\.weight has 5 weights, and the features"),
        ({"lin4.model.1.weight": None}, r"lacks lin4\.model\.1\.weight and 0 more"),
    ],
)
def test_wrong_weights_are_one_sentence(
    change: dict[str, Any], message: str, network: nn.Sequential, heads: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {**_vgg_state(network), **heads, **change}
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / "it.safetensors")
    with pytest.raises(WeightsError, match=message):
        build_perceptual(PerceptualOptions(vgg=tmp_path / "it.safetensors"))


def test_missing_files_and_heads_alone(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        build_perceptual(PerceptualOptions(vgg=tmp_path / "none.pth"))
    values = {"version": 1, "kind": "vae", "variant": "tiny", "output": "x", "steps": 1, "batch_size": 1}
    values |= {"optimizer": {"learning_rate": 1e-3}, "data": {"kind": "shapes"}}
    with pytest.raises(RecipeError, match=r"perceptual\.heads belongs to VGG16"):
        parse_recipe({**values, "perceptual": {"heads": "x"}}, "it")


def test_gabor_kernels_are_unlike_each_other_and_blind_to_flat_colours() -> None:
    kernels = gabor_kernels()
    assert kernels.shape == (8, 7, 7)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), torch.ones(8))
    overlaps = (kernels.flatten(1) @ kernels.flatten(1).T - torch.eye(8)).abs()
    assert overlaps.max() < 0.5
    # Recorded: they are the same on every machine.
    middle = [0.0020328, -0.2350435, 0.0069865, 0.4520485, 0.0069865, -0.2350435, 0.0020328]
    assert kernels[0, 3].tolist() == pytest.approx(middle, abs=1e-6)


def test_the_substitute_sees_blur_and_forgives_brightness(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        distance = build_perceptual(PerceptualOptions())
    assert "fixed oriented filters, a substitute for LPIPS" in caplog.text
    checks = (torch.arange(32)[:, None] // 4 + torch.arange(32) // 4) % 2
    sharp = (checks.float() - 0.5).expand(1, 3, -1, -1).contiguous()
    blurred = nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)
    error = float((blurred - sharp).square().mean())
    brighter = sharp + math.sqrt(error)
    assert float(distance(brighter, sharp)) < 0.05 * float(distance(blurred, sharp))
    weaker = sharp + 0.5 * (blurred - sharp)
    assert 0 < float(distance(weaker, sharp)) < float(distance(blurred, sharp))
    assert float(distance(sharp, sharp)) == 0


@pytest.mark.parametrize("start", ["same", "flat"])
def test_the_substitute_has_finite_gradients_and_leads_back(start: str) -> None:
    distance = build_perceptual(PerceptualOptions())
    target = _pictures(5, 16)
    pictures = (target.clone() if start == "same" else torch.zeros_like(target)).requires_grad_()
    before = distance(pictures, target).sum()
    before.backward()
    assert pictures.grad is not None
    assert pictures.grad.isfinite().all()
    if start == "flat":
        after = distance(pictures.detach() - 0.1 * pictures.grad / pictures.grad.abs().max(), target).sum()
        assert after < before


def test_the_substitute_takes_half_precision_and_refuses_small_pictures() -> None:
    distance = build_perceptual(PerceptualOptions())
    a, b = _pictures(6), _pictures(7)
    exact = distance(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(a, b), exact)
        assert distance(a.bfloat16(), b).dtype == torch.float32
    with pytest.raises(DataError, match="needs pictures of at least 7 pixels a side, got 6x24"):
        distance(a[..., :6, :], b[..., :6, :])
    assert not [name for name, p in distance.named_parameters() if p.requires_grad]
