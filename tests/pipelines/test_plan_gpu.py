"""Planned memory against what torch's allocator counted on a CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cogworks.config.measures import Measures
from cogworks.config.variants import COGVIDEOX_2B, TINY
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.pipelines import codec
from cogworks.pipelines.geometry import geometry
from cogworks.pipelines.planning.measure import measure_decoding, measure_steps
from cogworks.pipelines.progress import ignore
from cogworks.pipelines.waiting import waiting_room

TOLERANCE = 0.15
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
VARIANT = replace(
    TINY,
    transformer=replace(COGVIDEOX_2B.transformer, num_layers=4, rope="crop", position_table="none"),
    vae=replace(COGVIDEOX_2B.vae, widths=(64, 128, 128, 256), norm_groups=16),
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.no_grad()
def test_a_denoising_pass(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    size = geometry(VARIANT, 240, 352, 17)
    network = Transformer(VARIANT.transformer).to(device, dtype)
    inputs = (
        torch.randn(2, 16, size.latent_frames, size.rows, size.columns, device=device, dtype=dtype),
        torch.zeros(2, dtype=torch.int64, device=device),
        torch.randn(2, 226, 4096, device=device, dtype=dtype),
    )
    network(*inputs)
    inputs_bytes = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    held = torch.cuda.memory_allocated(device) - inputs_bytes
    torch.cuda.reset_peak_memory_stats(device)
    network(*inputs)
    measured = torch.cuda.max_memory_allocated(device) - held
    planned = measure_steps(VARIANT, size, 1, True, False, 1, None, dtype, device)
    assert planned.alive == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "measures", [Measures(tile=tile, strips=strips) for tile in (None, (120, 176)) for strips in (1, 8, 32)]
)
@torch.no_grad()
def test_a_decode(dtype: torch.dtype, measures: Measures) -> None:
    device = torch.device("cuda")
    size = geometry(VARIANT, 240, 352, 17)
    network = VAE(VARIANT.vae).to(device, dtype)
    latents = torch.randn(1, 16, size.latent_frames, size.rows, size.columns, device=device)
    codec.decode(network, latents, measures, lambda piece: None, ignore)
    held = torch.cuda.memory_allocated(device) - latents.numel() * 4
    torch.cuda.reset_peak_memory_stats(device)
    codec.decode(network, latents, measures, lambda piece: None, ignore)
    measured = torch.cuda.max_memory_allocated(device) - held
    planned = measure_decoding(VARIANT, size, 1, measures.strips, measures.tile, dtype, device)
    assert planned.alive == pytest.approx(measured, rel=TOLERANCE)


@torch.no_grad()
def test_strips_keep_the_pixels_and_leave_nothing_on_the_device() -> None:
    """Within the rounding of TF32, which torch lets cuDNN take; the negative control is another chunk's statistics."""
    device = torch.device("cuda")
    size = geometry(VARIANT, 240, 352, 17)
    network = VAE(VARIANT.vae).to(device)
    latents = torch.randn(1, 16, size.latent_frames, size.rows, size.columns, device=device)

    def decode(measures: Measures) -> torch.Tensor:
        (pieces,) = codec.decode(network, latents, measures, lambda piece: piece.cpu(), ignore)
        return torch.cat(pieces, dim=2)

    whole, cut = decode(Measures()), decode(Measures(strips=8))
    torch.testing.assert_close(cut, whole, atol=5e-3 * whole.abs().max().item(), rtol=0)
    assert (decode(Measures(tile=(120, 176))) - whole).abs().max() > 5e-2 * whole.abs().max()
    room = waiting_room(Measures(strips=8), device)()
    room["a"] = latents
    assert room.data["a"].device.type == "cpu"
    assert torch.equal(room["a"], latents)
