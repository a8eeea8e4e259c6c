"""Laws of the VAE: pieces and wholes, shapes, the posterior, errors, the published size."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cogworks.config.variants import COGVIDEOX_2B
from cogworks.errors import RequestError
from cogworks.models.vae import VAE
from cogworks.models.vae_frames import decode_chunks, encode_chunks
from cogworks.models.vae_posterior import Posterior
from cogworks.nn.onednn_conv import HAS_ONEDNN
from cogworks.nn.time_context import Start, Stream
from helpers.vae_reference import SMALL_CONFIG, random_clip

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch was built without oneDNN")


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(SMALL_CONFIG).requires_grad_(False)


@pytest.mark.parametrize(
    ("frames", "chunks"), [(1, [1]), (4, [4]), (9, [9]), (13, [13]), (17, [9, 8]), (20, [12, 8]), (49, [9] + [8] * 5)]
)
def test_encode_chunks(frames: int, chunks: list[int]) -> None:
    assert encode_chunks(frames, "chunked") == chunks
    assert encode_chunks(frames, "whole") == [frames]


@pytest.mark.parametrize(
    ("latent_frames", "rule", "chunks"),
    [
        (1, "chunked", [1]),
        (2, "chunked", [2]),
        (13, "chunked", [3] + [2] * 5),
        (13, "whole", [13]),
        (2, "sat15", [2]),
        (3, "sat15", [3]),
        (5, "sat15", [3, 2]),
        (21, "sat15", [3] + [2] * 9),
        (41, "sat15", [5] + [4] * 9),
    ],
)
def test_decode_chunks(latent_frames: int, rule: str, chunks: list[int]) -> None:
    assert decode_chunks(latent_frames, rule) == chunks  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 4, 5, 8, 9, 13, 16, 17])
def test_shapes_of_a_round_trip(vae: VAE, frames: int) -> None:
    """The published rule looks at parity alone: 8k and 8k + 1 frames come back as many, others do not."""
    posterior, latent_frames = vae.encode(random_clip(2, 3, frames, 16, 24)), (frames + 3) // 4
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, latent_frames, 2, 3)
    expected = 4 * latent_frames - (3 if latent_frames % 2 else 0)
    assert (expected == frames) == (frames % 8 in (0, 1))
    assert vae.decode(posterior.mode()).shape == (2, 3, expected, 16, 24)


def test_an_image_is_a_clip_of_one_frame(vae: VAE) -> None:
    latents = vae.encode(random_clip(1, 3, 1, 16, 24)).mode()
    assert torch.equal(vae.decode(latents, rule="chunked"), vae.decode(latents, rule="whole"))


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_a_stream_of_one_piece_is_the_start(vae: VAE, frames: int) -> None:
    pixels, latents = random_clip(1, 3, frames, 16, 24), random_clip(1, 4, (frames + 3) // 4, 2, 3)
    assert torch.equal(vae.encoder(pixels, Stream()), vae.encoder(pixels, Start()))
    assert torch.equal(vae.decoder(latents, Stream()), vae.decoder(latents, Start()))


def test_encode_stream_is_chunked_encode(vae: VAE) -> None:
    pixels = random_clip(1, 3, 25, 16, 24)

    def arriving() -> Iterator[Tensor]:
        yield from pixels.split([9, 8, 8], dim=2)

    streamed = list(vae.encode_stream(arriving()))
    assert [piece.shape[2] for piece in streamed] == [3, 2, 2]
    assert torch.equal(torch.cat(streamed, dim=2), vae.moments(pixels))


@pytest.mark.parametrize(("rule", "pieces"), [("chunked", [9, 8, 8]), ("whole", [25]), ("sat15", [8, 8, 8])])
def test_decode_stream_is_decode(vae: VAE, rule: str, pieces: list[int]) -> None:
    latents = random_clip(1, 4, 7, 2, 3)
    streamed = list(vae.decode_stream(latents, rule))  # type: ignore[arg-type]
    assert [piece.shape[2] for piece in streamed] == pieces
    assert torch.equal(torch.cat(streamed, dim=2), vae.decode(latents, rule))  # type: ignore[arg-type]


def test_pieces_of_any_length_continue(vae: VAE) -> None:
    """One latent at a time: later pieces have no frame apart, however many frames they have."""
    latents, stream = random_clip(1, 4, 4, 2, 3), Stream()
    assert [vae.decoder(piece, stream).shape[2] for piece in latents.split(1, dim=2)] == [1, 4, 4, 4]


def test_earlier_pixels_do_not_see_later_pieces(vae: VAE) -> None:
    latents = random_clip(1, 4, 5, 2, 3)
    changed = latents.clone()
    changed[:, :, 3:] += 1
    before, after = vae.decode(latents), vae.decode(changed)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9:], after[:, :, 9:])


def test_memory_of_a_stream_does_not_grow(vae: VAE) -> None:
    held = set()
    stream = Stream()
    for piece in random_clip(1, 4, 12, 2, 3).split(2, dim=2):
        vae.decoder(piece, stream)
        held.add(stream.carried_elements)
    assert len(held) == 1


@torch.no_grad()
def test_without_gradients_the_results_are_the_same(vae: VAE) -> None:
    """What is then written in place, and kept from piece to piece, is not what was given out or in."""
    pixels, latents = random_clip(2, 3, 17, 16, 24), random_clip(2, 4, 5, 2, 3)
    given = pixels.clone(), latents.clone()
    with torch.enable_grad():
        moments, clip = vae.moments(pixels), vae.decode(latents)
    pieces = list(vae.decode_stream(latents))
    kept = [piece.clone() for piece in pieces]
    torch.testing.assert_close(vae.moments(pixels), moments, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(pieces, dim=2), clip, atol=2e-5, rtol=1e-5)
    # Two clips whose pieces take turns.
    first, second = vae.decode_stream(latents), vae.decode_stream(latents + 1)
    turns = [piece for pair in zip(first, second, strict=True) for piece in pair]
    assert all(torch.equal(*pair) for pair in zip(turns[::2], kept, strict=True))
    assert all(torch.equal(*pair) for pair in zip(pieces, kept, strict=True))
    assert torch.equal(pixels, given[0])
    assert torch.equal(latents, given[1])


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_every_convolution_gets_the_layout_it_computes_in(vae: VAE, batch: int, latent_frames: int) -> None:
    """Another one would be copied, and would take twice as long."""
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "conv" in str(func):
                last = torch.channels_last if args[0].ndim == 4 else torch.channels_last_3d
                asked.append((str(func), args[0].is_contiguous(memory_format=last)))
            return func(*args, **(kwargs or {}))

    with Watch():
        vae.decode(random_clip(batch, 4, latent_frames, 2, 3))
        vae.encode(random_clip(batch, 3, 4 * latent_frames - 3, 16, 24))
    assert set(asked) == {("aten.mkldnn_convolution.default", True)}


def test_decode_stream_is_lazy_and_keeps_no_piece(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decoder_forward = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda z, c: calls.append(z.shape[2]) or decoder_forward(z, c))
    pieces = vae.decode_stream(random_clip(1, 4, 7, 2, 3))
    first = next(pieces)
    assert calls == [3]
    reference = weakref.ref(first)
    del first
    next(pieces)
    gc.collect()
    assert reference() is None
    assert calls == [3, 2]


def test_half_precision_stays_and_is_close(vae: VAE) -> None:
    """bfloat16 keeps 8 bits: a few percent after some twenty layers."""
    half = VAE(SMALL_CONFIG).bfloat16().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    latents = random_clip(1, 4, 3, 2, 3)
    decoded, expected = half.decode(latents.bfloat16()), vae.decode(latents)
    assert decoded.dtype == torch.bfloat16
    assert (decoded.float() - expected).norm() / expected.norm() < 0.05


def test_posterior_moments() -> None:
    mean, logvar = torch.full((1, 1, 20, 50, 50), 2.0), torch.full((1, 1, 20, 50, 50), -1.0)
    posterior = Posterior.from_moments(torch.cat([mean, logvar], dim=1))
    sample = posterior.sample(torch.Generator().manual_seed(0))
    # 50,000 draws: the standard error of the mean is 0.003, of the standard deviation 0.002; five of them.
    assert abs(float(sample.mean()) - 2) < 0.015
    assert abs(float(sample.std()) - float(torch.exp(torch.tensor(-0.5)))) < 0.01
    assert torch.equal(posterior.mode(), mean)


def test_posterior_clamps_and_measures() -> None:
    wild = Posterior.from_moments(torch.tensor([0.0, 0.0, -99.0, 99.0]).reshape(1, 4, 1, 1, 1))
    assert wild.logvar.flatten().tolist() == [-30.0, 20.0]
    standard = Posterior.from_moments(torch.zeros(3, 4, 1, 1, 1))
    assert float(standard.kl()) == 0
    shifted = Posterior(torch.full((3, 2, 1, 1, 1), 2.0), torch.zeros(3, 2, 1, 1, 1))
    assert float(shifted.kl()) == 4  # two elements a sample, 2**2 / 2 each


def test_scaling() -> None:
    z = torch.tensor([1.0, -2.0])
    plain, inverted = (VAE(replace(SMALL_CONFIG, invert_scale_latents=invert)) for invert in (False, True))
    torch.testing.assert_close(plain.to_diffusion(z), 0.7 * z)
    torch.testing.assert_close(plain.from_diffusion(plain.to_diffusion(z)), z)
    torch.testing.assert_close(plain.image_condition(z), 0.7 * z)
    torch.testing.assert_close(inverted.image_condition(z), z / 0.7)
    torch.testing.assert_close(inverted.to_diffusion(z), 0.7 * z)


@pytest.mark.parametrize("frames", [0, 2, 3, 6, 7, 10, 11])
def test_frame_counts_that_are_not_well_defined(vae: VAE, frames: int) -> None:
    with pytest.raises(RequestError, match=rf"4k \+ 1 frames .* got {frames}"):
        vae.encode(torch.zeros(1, 3, frames, 16, 16))


def test_other_errors(vae: VAE) -> None:
    with pytest.raises(RequestError, match="multiples of 8, got 12x16"):
        vae.encode(torch.zeros(1, 3, 1, 12, 16))
    with pytest.raises(RequestError, match="later pieces, got 5"):
        list(vae.encode_stream([torch.zeros(1, 3, 5, 16, 16)] * 2))
    with pytest.raises(RequestError, match="drops the first latent frame"):
        vae.decode(torch.zeros(1, 4, 2, 2, 2), rule="sat15")
    with pytest.raises(RequestError, match="no latent frame"):
        vae.decode(torch.zeros(1, 4, 0, 2, 2))
    with pytest.raises(RequestError, match="unknown rule of decoding 'v2'"):
        vae.decode(torch.zeros(1, 4, 1, 2, 2), rule="v2")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="unknown rule of encoding 'v2'"):
        vae.encode(torch.zeros(1, 3, 1, 16, 16), rule="v2")  # type: ignore[arg-type]


def test_gradients_need_one_piece() -> None:
    trainable = VAE(SMALL_CONFIG)
    trainable.decode(random_clip(1, 4, 3, 2, 3)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trainable.decoder.parameters())
    with pytest.raises(RuntimeError, match="Start to train"):
        trainable.decode(random_clip(1, 4, 5, 2, 3))


def test_published_size() -> None:
    with torch.device("meta"):
        published = VAE(COGVIDEOX_2B.vae)
    counts = [sum(p.numel() for p in m.parameters()) for m in (published, published.encoder, published.decoder)]
    assert counts == [215_583_907, 92_215_456, 123_368_451]
