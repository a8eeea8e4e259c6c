"""The forms of the rotation against each other; its positions are tested by parity."""

from __future__ import annotations

import pytest
import torch

from cogworks.config.variants import TINY
from cogworks.nn.layout import Segment, TokenLayout
from cogworks.nn.rope import Rope, _rotate_real, apply_rope, rope_table

LAYOUT = TokenLayout((Segment(3, 2, 2, 2), Segment(1, 1, 2, 3)))


def heads(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(B, H, N, d) as attention has them: a view of (B, N, H, d)."""
    x = torch.randn(2, LAYOUT.length, 4, 32, generator=torch.Generator().manual_seed(0))
    return x.to(dtype).transpose(1, 2)


def table() -> Rope:
    rope = rope_table(LAYOUT, TINY.transformer, torch.device("cpu"))
    assert rope is not None
    return rope


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_all_forms_agree(dtype: torch.dtype) -> None:
    x, rope = heads(dtype), table()
    expected = _rotate_real(x, rope)
    kept = x.clone()
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 0.0, "rtol": 2**-7}
    torch.testing.assert_close(apply_rope(x, rope, LAYOUT), expected, **tolerance)
    assert torch.equal(x, kept)
    rotated = apply_rope(x, rope, LAYOUT, overwrite=True)
    assert rotated.data_ptr() == x.data_ptr()
    torch.testing.assert_close(rotated, expected, **tolerance)
    assert (rotated - kept).abs().max() > 0.1
    for run in LAYOUT.runs[::2]:  # text
        assert torch.equal(rotated[:, :, run.start : run.stop], kept[:, :, run.start : run.stop])


@pytest.mark.parametrize("turned", [False, True])
def test_gradients(turned: bool) -> None:
    """Also where what comes back does not have its pairs side by side."""
    rope, weight, grads = table(), heads(), []
    if turned:
        weight = weight.transpose(-1, -2).contiguous().transpose(-1, -2)
    for form in (lambda x: apply_rope(x, rope, LAYOUT), lambda x: _rotate_real(x, rope)):
        x = heads().clone().requires_grad_()
        form(x).backward(weight)
        grads.append(x.grad)
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-6)
    # A rotation: its gradient is the weight turned back, not the weight.
    assert (grads[0] - weight).abs().max() > 0.1


def test_compiled_blocks_see_real_numbers() -> None:
    rope = table()
    compiled = torch.compile(lambda x: apply_rope(x, rope, LAYOUT), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(heads()), _rotate_real(heads(), rope), atol=1e-6, rtol=1e-6)
