"""Strips of rows: which rows, and that a convolution gives in strips what it gives in whole pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogworks.nn.causal_conv import CausalConv3d
from cogworks.nn.norm import GroupNorm, SpatialNorm
from cogworks.nn.strips import LEAST_ROWS, strips
from cogworks.nn.time_context import Start, Stream


def test_strips_are_not_thin() -> None:
    assert [rows.stop for rows in strips(100, 8)] == [LEAST_ROWS * k for k in range(1, 7)] + [100]
    assert [rows.stop for rows in strips(60, 8, 10)] == [20, 40, 60]  # whole units
    assert strips(LEAST_ROWS, 8) == [slice(0, LEAST_ROWS)]
    assert [rows.stop for rows in strips(480, 8)] == [60 * k for k in range(1, 9)]


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of a row, which show what happens at their borders best."""
    monkeypatch.setattr("cogworks.nn.strips.LEAST_ROWS", 1)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    ("height", "count", "unit", "ends"),
    [
        (12, 1, 1, [12]),
        (12, 3, 1, [4, 8, 12]),
        (13, 3, 1, [5, 10, 13]),
        (3, 8, 1, [1, 2, 3]),
        (24, 8, 8, [8, 16, 24]),
        (40, 2, 8, [24, 40]),
        (8, 4, 8, [8]),
    ],
)
def test_strips(height: int, count: int, unit: int, ends: list[int]) -> None:
    assert strips(height, count, unit) == [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def perturbed(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return module.requires_grad_(False).double()


def clip(frames: int, height: int, last: bool) -> Tensor:
    torch.manual_seed(2)
    x = torch.randn(2, 4, frames, height, 5, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last_3d) if last else x


@torch.no_grad()
@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("height", [4, 12])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("channels", [4, 3])
def test_convolution_of_normed_clips(last: bool, height: int, spatial: bool, channels: int) -> None:
    """In float64, with one latent row to four rows of pixels, over pieces of a stream; the input stays what it was."""
    conv = perturbed(CausalConv3d(4, channels))
    norm = perturbed(SpatialNorm(4, 3, 2, 1e-6) if spatial else GroupNorm(2, 4, 1e-6))
    x = clip(5, height, last)
    latents = torch.randn(2, 3, 5, height // 4, 5, dtype=torch.float64)
    for count in (2, 3, 8):
        whole, cut, unaware = Stream(), Stream(strips=count), Start(strips=count)
        for piece, seen in zip(x.split([3, 2], 2), latents.split([3, 2], 2), strict=True):
            given = (seen, piece.shape[2] % 2) if spatial else ()
            expected = conv.of_normed(norm, piece, whole, *given)
            kept = piece.clone()
            torch.testing.assert_close(conv.of_normed(norm, piece, cut, *given), expected, atol=1e-12, rtol=1e-12)
            assert torch.equal(piece, kept)
        # The negative control: strips that are not told of the first piece.
        assert (conv.of_normed(norm, piece, unaware, *given) - expected).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("count", [2, 5])
def test_an_input_in_its_last_use_is_written_over(count: int) -> None:
    conv, norm, x = perturbed(CausalConv3d(4, 4)), perturbed(GroupNorm(2, 4, 1e-6)), clip(3, 10, last=True)
    expected = conv.of_normed(norm, x, Start())
    made = conv.of_normed(norm, x, Start(strips=count), last_use=True)
    assert made.data_ptr() == x.data_ptr()
    torch.testing.assert_close(made, expected, atol=1e-12, rtol=1e-12)
