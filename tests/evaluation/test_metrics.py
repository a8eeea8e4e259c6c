"""PSNR, SSIM and the Wilson interval against values worked out by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cogworks.evaluation.figures.metrics import psnr, ssim, wilson_interval


def noise(seed: int = 0, shape: tuple[int, ...] = (3, 24, 20, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_of_a_constant_difference() -> None:
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(a + 10, a) == psnr(a, a + 10)  # no wrap-around of uint8
    assert psnr(a, a) == math.inf


def test_ssim_of_equal_and_of_flat_videos() -> None:
    assert ssim(noise(), noise()) == pytest.approx(1)
    flat = np.full((2, 16, 16, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    # Without variance only the luminance term is left.
    assert ssim(flat, flat + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_by_its_definition() -> None:
    a, b = noise(1, (1, 12, 11, 3)), noise(2, (1, 12, 11, 3))
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(2):
        x, y = ((video[0, top : top + 11] @ np.array([0.299, 0.587, 0.114])) for video in (a, b))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        c1, c2 = 2.55**2, 7.65**2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        values.append(luminance * (2 * covariance + c2) / (var_x + var_y + c2))
    assert ssim(a, b) == pytest.approx(np.mean(values), rel=1e-9)


def test_metrics_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(noise(), noise()[1:])
    with pytest.raises(ValueError, match="at least 11"):
        ssim(noise(shape=(1, 8, 8, 3)), noise(shape=(1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # The roots in p of (p - share)**2 = z**2 p (1 - p) / total, worked out by hand for round cases.
    [(0, 0, 0, 1), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962), (95, 100, 0.8882, 0.9785)],
)
def test_wilson_interval(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def test_wilson_bounds_solve_their_equation() -> None:
    z = 1.959964
    for bound in wilson_interval(37, 90):
        assert (bound - 37 / 90) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / 90)
    with pytest.raises(ValueError, match="between 0 and total"):
        wilson_interval(3, 2)
