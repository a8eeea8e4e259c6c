"""What benchmarks/gpu.sh measures, on a card: both sides compute the same there. `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace

import bench_gpu
import pytest
import torch
from bench_gpu import Target, check_float32, matmul_rate, model, vae
from measure import Settings

from cogworks.config.variants import COGVIDEOX_2B, Variant

ONCE = Settings(quick=True, threads=1, rounds=1)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@torch.no_grad()
@pytest.mark.parametrize("variant", bench_gpu.MODELS, ids=lambda variant: variant.name)
def test_published_widths_agree_in_float32(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert check_float32(variant.transformer, "cuda", 0).largest > 0.1


@torch.no_grad()
@pytest.mark.parametrize("variant", bench_gpu.MODELS, ids=lambda variant: variant.name)
def test_every_case_of_a_model(variant: Variant) -> None:
    """Four blocks, few tokens, in bfloat16."""
    size = (4, 16, 24)
    config = replace(variant.transformer, num_layers=4, sample_size=size[1:], sample_frames=13)
    found = list(model(replace(variant, transformer=config), size, a_target(), ONCE))
    kinds = {case.name.rpartition("-")[2]: case for case in found}
    assert {"eager", "memory", "flash", "compiled"} <= set(kinds)
    assert kinds["eager"].difference is not None
    assert kinds["memory"].ratio.median <= 1.0


@torch.no_grad()
def test_the_vae_needs_half_the_memory() -> None:
    found = {case.name: case for case in vae(COGVIDEOX_2B.vae, (17, 240, 368), a_target(), ONCE)}
    assert found["vae-memory"].met, found["vae-memory"].ratio
    assert found["vae-time"].difference is not None


def a_target() -> Target:
    return Target("cuda", torch.bfloat16, matmul_rate("cuda", torch.bfloat16, 1024))
