"""A VAE in strips of rows gives the pixels of whole pictures and holds less."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cogworks.models.vae import VAE
from cogworks.nn.causal_conv import CausalConv3d
from helpers.vae_reference import perturbed_vae, random_clip

FRAMES = 17
LATENTS = (1, 4, 5)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return perturbed_vae()


@pytest.fixture(autouse=True)
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are small here, and are to be cut all the same."""
    monkeypatch.setattr("cogworks.nn.strips.LEAST_ROWS", 1)


def joined(pieces: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(pieces), dim=2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 2), (5, 3), (12, 2)])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_strips_keep_the_pixels(vae: VAE, dtype: torch.dtype, size: tuple[int, int], count: int) -> None:
    """Up to the rounding of the dtype: a library may sum in another order for another size."""
    vae, rounding = vae.to(dtype), 2e3 * torch.finfo(dtype).eps if dtype != torch.bfloat16 else 0.1
    latents, pixels = random_clip(*LATENTS, *size).to(dtype), random_clip(2, 3, FRAMES, 8 * size[0], 16).to(dtype)
    for whole, cut in (
        (joined(vae.decode_stream(latents)), joined(vae.decode_stream(latents, strips=count))),
        (
            joined(vae.encode_stream(pixels.split([9, 8], 2))),
            joined(vae.encode_stream(pixels.split([9, 8], 2), strips=count)),
        ),
    ):
        assert cut.shape == whole.shape
        torch.testing.assert_close(cut, whole, atol=rounding * whole.abs().max().item(), rtol=0)
    vae.float()


@torch.no_grad()
def test_no_convolution_sees_a_whole_picture(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the first one, whose input is the latents."""
    latents, seen = random_clip(*LATENTS, 16, 2), []
    whole = CausalConv3d._convolve

    def convolve(self: CausalConv3d, x: Tensor, padding: tuple[int, int, int]) -> Tensor:
        seen.append((self is vae.decoder.conv_in, x.shape[3], padding[1]))
        return whole(self, x, padding)

    monkeypatch.setattr(CausalConv3d, "_convolve", convolve)
    joined(vae.decode_stream(latents, strips=4))
    assert all((rows <= 128 // 4 + 2 and padding == 0) or first for first, rows, padding in seen)
    assert sum(first for first, _, _ in seen) == 2  # pieces


@torch.no_grad()
def test_blocks_of_a_level_let_go_of_what_entered_it(vae: VAE) -> None:
    """While the last block of a level works, the input of the first one is gone."""
    alive: list[bool] = []
    blocks: list[nn.Module] = list(vae.decoder.levels[-1].blocks)
    entered: list[weakref.ref[Tensor]] = []

    def remember(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        entered.append(weakref.ref(arguments[0]))

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        alive.append(entered[0]() is not None)

    hooks = [blocks[0].register_forward_pre_hook(remember), blocks[-1].register_forward_pre_hook(look)]
    try:
        vae.decode(random_clip(1, 4, 2, 2, 2))
    finally:
        for hook in hooks:
            hook.remove()
    assert alive == [False]
