"""Modulated norm and gated residual: the forms that write in place against the formula, run by run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cogworks.nn import modulation
from cogworks.nn.layout import Segment, TokenLayout
from cogworks.nn.modulation import Modulation, gated_add, modulated_norm

WIDTH = 8
LAYOUTS = {
    "one": TokenLayout((Segment(3, 2, 2, 1),)),
    "no text": TokenLayout((Segment(0, 1, 2, 2),)),
    "packed": TokenLayout((Segment(2, 1, 2, 1, 1), Segment(3, 1, 1, 1, 0))),
    "shared row": TokenLayout((Segment(2, 1, 2, 1, 1), Segment(3, 1, 1, 1, 1))),
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rows_of(batch: int, dtype: torch.dtype = torch.float32) -> Modulation:
    return Modulation(*(draw(batch, 2, 2, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2, 3)))


def formula(add: Tensor, x: Tensor, factor: Tensor, layout: TokenLayout) -> Tensor:
    """add + factor x, token by token."""
    tokens = []
    for run in layout.runs:
        for place in range(run.start, run.stop):
            row = (slice(None), run.modulation_row, run.modality)
            tokens.append((add[row] if add.ndim == 4 else add[:, place]) + factor[row] * x[:, place])
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_both_against_the_formula(layout: TokenLayout, batch: int, gradients: bool) -> None:
    x, y, rows = draw(3, layout.length, WIDTH), draw(3, layout.length, WIDTH, seed=4), rows_of(batch)
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    kept = x.clone(), y.clone()
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(
            modulated_norm(norm, x, rows, layout), formula(rows.shift, norm(x), rows.gain, layout)
        )
        torch.testing.assert_close(gated_add(x, y, rows, layout), formula(x, y, rows.gate, layout))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    with torch.no_grad():
        result = gated_add(x, y, rows, layout, overwrite=True)
    assert result.data_ptr() == y.data_ptr()
    torch.testing.assert_close(result, formula(kept[0], kept[1], rows.gate, layout))
    assert torch.equal(x, kept[0])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_gradients(layout: TokenLayout, batch: int) -> None:
    given = [
        draw(3, layout.length, WIDTH, dtype=torch.float64),
        draw(3, layout.length, WIDTH, seed=4, dtype=torch.float64),
        *rows_of(batch, torch.float64),
    ]
    weight = draw(3, layout.length, WIDTH, seed=9, dtype=torch.float64)
    found = []
    for form in (modulation._by_runs, lambda *arguments: formula(*arguments[:-1])):
        x, y, shift, gain, gate = (tensor.clone().requires_grad_() for tensor in given)
        total = form(shift, x, gain, layout, None) + form(x, y, gate, layout, None)
        (total * weight).sum().backward()
        found.append([tensor.grad for tensor in (x, y, shift, gain, gate)])
    torch.testing.assert_close(found[0], found[1])
    assert all(grad.abs().max() > 0 for grad in found[0])


def test_gradients_that_nobody_needs_are_not_made() -> None:
    layout = LAYOUTS["one"]
    x, rows = draw(1, layout.length, WIDTH).requires_grad_(), rows_of(1)
    gated_add(x, draw(1, layout.length, WIDTH, seed=4), rows, layout).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_mixed_dtypes_are_widened_as_torch_does() -> None:
    layout, rows = LAYOUTS["one"], rows_of(1, torch.bfloat16)
    x, y = draw(2, layout.length, WIDTH), draw(2, layout.length, WIDTH, seed=4, dtype=torch.bfloat16)
    result = gated_add(x, y, rows, layout)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, formula(x, y.float(), rows.gate.float(), layout), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gradients", [False, True])
def test_compiled(gradients: bool) -> None:
    layout, rows = LAYOUTS["packed"], rows_of(1)
    x, norm = draw(2, layout.length, WIDTH), nn.LayerNorm(WIDTH)

    def both(x: Tensor) -> Tensor:
        return gated_add(x, modulated_norm(norm, x, rows, layout), rows, layout, overwrite=False)

    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x))
