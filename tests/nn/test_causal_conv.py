"""Causal convolution and the two time contexts of one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogworks.nn import causal_conv
from cogworks.nn.causal_conv import CausalConv3d
from cogworks.nn.norm import GroupNorm, SpatialNorm, group_statistics
from cogworks.nn.time_context import Start, Stream, TimeContext, repeat_first
from helpers.vae_reference import channels_last


@pytest.fixture
def conv() -> CausalConv3d:
    torch.manual_seed(0)
    return CausalConv3d(3, 4).requires_grad_(False)


def clip(frames: int) -> Tensor:
    return torch.randn(2, 3, frames, 4, 5, generator=torch.Generator().manual_seed(1))


def test_start_repeats_the_first_frame(conv: CausalConv3d) -> None:
    x = clip(4)
    padded = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
    expected = F.conv3d(F.pad(padded, (1, 1, 1, 1)), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x, Start()), expected, atol=1e-6, rtol=1e-6)
    zeros_in_front = F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), conv.weight, conv.bias)
    assert (conv(x, Start()) - zeros_in_front).abs().max() > 0.01


def test_nothing_looks_ahead(conv: CausalConv3d) -> None:
    x, changed = clip(6), clip(6)
    changed[:, :, 4:] += 1
    before, after = conv(x, Start()), conv(changed, Start())
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4], after[:, :, 4])


@pytest.mark.parametrize("max_elements", [1, 500, 700])
def test_large_inputs_are_split(conv: CausalConv3d, monkeypatch: pytest.MonkeyPatch, max_elements: int) -> None:
    """Pieces of one frame, of several, and a last one that is shorter."""
    x, sizes = clip(7), []
    expected = conv(x, Start())
    whole = conv._convolve
    monkeypatch.setattr(causal_conv, "MAX_ELEMENTS", max_elements)
    monkeypatch.setattr(conv, "_convolve", lambda piece, padding: sizes.append(piece.shape[2]) or whole(piece, padding))
    torch.testing.assert_close(conv(x, Start()), expected, atol=1e-6, rtol=1e-6)
    assert sizes == {1: [3] * 7, 500: [4, 4, 4, 3], 700: [5, 5, 3]}[max_elements]


def test_weights_are_drawn_as_torch_draws_them() -> None:
    torch.manual_seed(3)
    ours = CausalConv3d(5, 7)
    torch.manual_seed(3)
    theirs = torch.nn.Conv3d(5, 7, 3)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("pieces", [[6], [3, 3], [1, 1, 4], [1, 1, 1, 1, 1, 1], [4, 1, 1]])
def test_stream_joins_pieces(conv: CausalConv3d, pieces: list[int]) -> None:
    """A convolution alone does not depend on the cut, pieces shorter than its reach included."""
    x, stream = clip(6), Stream()
    streamed = torch.cat([conv(piece, stream) for piece in x.split(pieces, dim=2)], dim=2)
    torch.testing.assert_close(streamed, conv(x, Start()), atol=1e-6, rtol=1e-6)


def test_a_stream_keeps_its_convolutions_apart(conv: CausalConv3d) -> None:
    other = CausalConv3d(3, 4).requires_grad_(False)
    x, stream = clip(4), Stream()
    first, second = x.split(2, dim=2)
    conv(first, stream)
    other(first + 1, stream)
    torch.testing.assert_close(conv(second, stream), conv(x, Start())[:, :, 2:], atol=1e-6, rtol=1e-6)


def test_a_stream_holds_copies(conv: CausalConv3d) -> None:
    """Views would keep whole pieces alive; two frames of three channels are all that is needed."""
    x, stream = clip(6), Stream()
    conv(x, stream)
    (carried,) = stream._carried.values()
    assert stream.carried_elements == carried.numel() == x[:, :, :2].numel()
    assert carried.untyped_storage().nbytes() == 4 * carried.numel()


def test_a_stream_refuses_gradients() -> None:
    conv = CausalConv3d(3, 4)
    x = clip(2).requires_grad_()
    with pytest.raises(RuntimeError, match="Start to train"):
        conv(x, Stream())
    with torch.no_grad():
        conv(x, Stream())


def test_lead_frames(conv: CausalConv3d) -> None:
    stream = Stream()
    for context in (Start(), stream):
        assert [context.lead_frames(frames) for frames in (1, 2, 9)] == [1, 0, 1]
    assert Start(first_frame_apart=False).lead_frames(9) == 0
    assert Stream(first_frame_apart=False).lead_frames(9) == 0
    conv(clip(1), stream)
    assert stream.lead_frames(9) == 0


def test_repeat_first() -> None:
    x = torch.arange(3.0).reshape(1, 1, 3)
    assert repeat_first(x, 2).flatten().tolist() == [0, 0, 0, 1, 2]


class Elsewhere(Start):
    """A context that knows of `extend` alone, and of statistics: it must be asked with gradients and without."""

    fill = TimeContext.fill

    def extend(self, conv: torch.nn.Module, x: Tensor, frames: int) -> Tensor:
        return torch.cat([torch.full_like(x[:, :, :1], 0.5)] * frames + [x], dim=2)

    def statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        return x.new_full((len(x), groups), 0.3), x.new_full((len(x), groups), 2.0)


def norms(channels: int, latent_channels: int, dtype: torch.dtype) -> tuple[GroupNorm, SpatialNorm]:
    plain, spatial = GroupNorm(2, channels, 1e-6), SpatialNorm(channels, latent_channels, 2, 1e-6)
    for module in (plain, spatial):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return plain.to(dtype), spatial.to(dtype)


# Twenty operations of order one; of the narrow dtypes, eight and eleven bits.
CLOSE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 0.06, torch.float16: 0.01}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("latent_frames", "frames", "lead"), [(1, 1, 1), (3, 5, 1), (3, 3, 1), (2, 4, 0)])
def test_without_gradients_a_normed_convolution_is_the_same(
    dtype: torch.dtype, last: bool, batch: int, latent_frames: int, frames: int, lead: int
) -> None:
    conv = CausalConv3d(4, 3).to(dtype)
    x = (2 * torch.randn(batch, 4, frames, 4, 6, generator=torch.Generator().manual_seed(2)) + 1).to(dtype)
    latents = torch.randn(batch, 3, latent_frames, 2, 3, generator=torch.Generator().manual_seed(3)).to(dtype)
    if last:
        x, latents = channels_last(x), channels_last(latents)
    for norm, given in zip(norms(4, 3, dtype), ((), (latents, lead)), strict=True):
        for context in (Start, Stream, Elsewhere):
            plain = conv(F.silu(norm(x.contiguous(), context(), *given)).detach(), context()).detach()
            kept = x.clone()
            with torch.no_grad():
                made = conv.of_normed(norm, x, context(), *given)
            torch.testing.assert_close(made, plain, atol=CLOSE[dtype], rtol=CLOSE[dtype])
            assert torch.equal(x, kept)  # the input is still needed for the way round
            with torch.no_grad():  # the negative control: a context is asked
                other = conv.of_normed(norm, x, Start() if context is Elsewhere else Elsewhere(), *given)
            assert (other - plain).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[6], [3, 3], [1, 1, 4], [4, 1, 1]])
def test_a_stream_of_normed_pieces_joins_them(pieces: list[int]) -> None:
    """Statistics from elsewhere do not depend on the cut; then nothing does."""

    class Fixed(Stream):
        statistics = Elsewhere.statistics

    class FixedStart(Start):
        statistics = Elsewhere.statistics

    conv, (norm, _) = CausalConv3d(4, 3), norms(4, 3, torch.float32)
    x = channels_last(torch.randn(1, 4, 6, 4, 5))
    stream, other = Fixed(), Fixed()
    made, held = [], set()
    for piece in x.split(pieces, dim=2):
        made.append(conv.of_normed(norm, piece, stream))
        conv.of_normed(norm, piece + 1, other)  # shares nothing with the first
        held.add(stream.carried_elements)
    expected = conv(F.silu(norm(x, FixedStart())), Start())
    torch.testing.assert_close(torch.cat(made, dim=2), expected, atol=1e-5, rtol=1e-5)
    assert held == {2 * 4 * 4 * 5}


@torch.no_grad()
def test_a_stream_goes_on_after_inference_mode(conv: CausalConv3d) -> None:
    """What was carried there may not be written to elsewhere."""
    x, stream = clip(6), Stream()
    with torch.inference_mode():
        first = conv(x[:, :, :3], stream).clone()
    made = torch.cat([first, conv(x[:, :, 3:4], stream), conv(x[:, :, 4:], stream)], dim=2)
    torch.testing.assert_close(made, conv(x, Start()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_group_statistics(last: bool, batch: int) -> None:
    """Means far from zero cost no digits: the mean is a hundred deviations here."""
    x = torch.randn(batch, 6, 3, 8, 5, generator=torch.Generator().manual_seed(4)) + 100
    mean, variance = group_statistics(channels_last(x) if last else x, 3)
    exact = torch.var_mean(x.double().unflatten(1, (3, -1)).flatten(2), dim=2, correction=0)
    torch.testing.assert_close(mean.double(), exact[1], atol=0, rtol=1e-6)
    torch.testing.assert_close(variance.double(), exact[0], atol=0, rtol=1e-4)
