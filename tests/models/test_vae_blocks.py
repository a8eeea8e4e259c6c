"""Each cheap form inside the VAE against the form in which it is defined."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cogworks.models.vae import DecoderLevel
from cogworks.models.vae_blocks import DecoderBlock, Downsample, Upsample
from cogworks.nn.norm import GroupNorm, SpatialNorm, repeat, resize_nearest
from cogworks.nn.onednn_conv import is_channels_last
from cogworks.nn.time_context import Start
from helpers.vae_reference import SMALL_CONFIG, channels_last, random_clip

# Sums of at most 72 products of order one in float32.
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@torch.no_grad()
@pytest.mark.parametrize(("latent_frames", "frames", "lead"), [(1, 1, 1), (3, 9, 1), (2, 8, 0), (3, 12, 0), (3, 3, 1)])
def test_spatial_norm_is_defined_at_full_resolution(latent_frames: int, frames: int, lead: int) -> None:
    norm = SpatialNorm(8, 3, 4, 1e-6)
    for parameter in norm.parameters():
        parameter.add_(0.3 * random_clip(*parameter.shape))
    x, latents = random_clip(2, 8, frames, 4, 6), random_clip(2, 3, latent_frames, 2, 3)
    apart = F.interpolate(latents[:, :, :lead], (lead, 4, 6)) if lead else latents[:, :, :0].new_zeros(2, 3, 0, 4, 6)
    rest = latents[:, :, lead:]
    rest = F.interpolate(rest, (frames - lead, 4, 6)) if frames > lead else rest.new_zeros(2, 3, 0, 4, 6)
    resized = torch.cat([apart, rest], dim=2)
    torch.testing.assert_close(resize_nearest(latents, x.shape[2:], lead), resized, atol=0, rtol=0)
    expected = F.group_norm(x, 4, norm.norm.weight, norm.norm.bias, 1e-6) * norm.scale(resized) + norm.shift(resized)
    torch.testing.assert_close(norm(x, Start(), latents, lead), expected, **TOLERANCE)


@torch.no_grad()
def test_group_norm_with_given_statistics() -> None:
    """Statistics of x itself give torch's group norm; others do not."""

    class Given(Start):
        offset = 0.0

        def statistics(self, x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
            variance, mean = torch.var_mean(x.unflatten(1, (groups, -1)).flatten(2), dim=2, correction=0)
            return mean + self.offset, variance

    norm, x, given = GroupNorm(2, 8), random_clip(2, 8, 3, 4, 5), Given()
    norm.weight.add_(random_clip(8))
    norm.bias.add_(random_clip(8, seed=2))
    torch.testing.assert_close(norm(x, given), norm(x, Start()), **TOLERANCE)
    given.offset = 0.5
    assert (norm(x, given) - norm(x, Start())).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(("frames", "lead"), [(1, 1), (5, 1), (4, 0)])
def test_upsample_is_defined_by_doubling_first(frames: int, lead: int) -> None:
    upsample, x = Upsample(4, in_time=True), random_clip(2, 4, frames, 3, 5)
    doubled = torch.cat([x[:, :, :lead], x[:, :, lead:].repeat_interleave(2, dim=2)], dim=2)
    doubled = doubled.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    expected = torch.stack([upsample.conv(frame) for frame in doubled.unbind(2)], dim=2)
    torch.testing.assert_close(upsample(x, Start(), lead), expected, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "lead"), [(1, 1), (5, 1), (4, 0)])
def test_downsample_averages_pairs(frames: int, lead: int) -> None:
    downsample, x = Downsample(4, in_time=True), random_clip(2, 4, frames, 4, 6)
    pairs = [x[:, :, i : i + 2].mean(2) for i in range(lead, frames, 2)]
    pooled = [*x[:, :, :lead].unbind(2), *pairs]
    expected = torch.stack([downsample.conv(F.pad(frame, (0, 1, 0, 1))) for frame in pooled], dim=2)
    torch.testing.assert_close(downsample(x, Start(), lead), expected, **TOLERANCE)


def test_a_block_compiles_in_one_graph() -> None:
    block = DecoderBlock(8, 16, 3, 4, 1e-6)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    x, latents = random_clip(1, 8, 5, 4, 6), random_clip(1, 3, 3, 2, 3)
    torch.testing.assert_close(compiled(x, Start(), latents, 1), block(x, Start(), latents, 1), **TOLERANCE)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_level_of_the_decoder_compiles_in_one_graph(recorded: bool) -> None:
    level = DecoderLevel(SMALL_CONFIG, 1)

    def through(x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        for block in level.blocks:
            x = block(x, Start(), latents, 1)
        assert level.upsample is not None
        return level.upsample(x, Start(), 1)

    compiled = torch.compile(through, fullgraph=True, backend="aot_eager")
    x, latents = random_clip(1, 32, 5, 4, 6), random_clip(1, 4, 3, 2, 3)
    with torch.set_grad_enabled(recorded):
        made, expected = compiled(x, latents), through(x, latents)
    # Sums of up to 864 products of order one.
    torch.testing.assert_close(made, expected, atol=5e-5, rtol=1e-5)
    if recorded:
        parameters = tuple(level.parameters())
        pairs = zip(*(torch.autograd.grad(y.square().mean(), parameters) for y in (made, expected)), strict=True)
        for gradient, wanted in pairs:
            torch.testing.assert_close(gradient, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("times", [(1, 2, 2), (2, 1, 1), (3, 2, 4)])
def test_repeat(last: bool, batch: int, times: tuple[int, int, int]) -> None:
    x = random_clip(batch, 3, 2, 4, 5)
    expected = x
    for axis, count in enumerate(times, start=2):
        expected = expected.repeat_interleave(count, dim=axis)
    repeated = repeat(channels_last(x) if last else x, times)
    assert torch.equal(repeated, expected)
    assert is_channels_last(repeated) == last
