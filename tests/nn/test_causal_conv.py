"""Causal convolution and the two time contexts of one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogworks.nn import causal_conv
from cogworks.nn.causal_conv import CausalConv3d
from cogworks.nn.time_context import Start, Stream, repeat_first


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
    monkeypatch.setattr(conv, "_convolve", lambda piece: sizes.append(piece.shape[2]) or whole(piece))
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
