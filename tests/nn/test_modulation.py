"""Modulated norm and gated residual: the forms that write in place against the formula, run by run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cogworks.nn.by_runs import Rows
from cogworks.nn.layout import TEXT, Segment, TokenLayout
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
    return Modulation(
        *(Rows(*(draw(batch, 2, WIDTH, seed=seed + part, dtype=dtype) for seed in (10, 20))) for part in range(3))
    )


def formula(add: Tensor | Rows, x: Tensor, factor: Rows, layout: TokenLayout) -> Tensor:
    """add + factor x, token by token."""
    tokens = []
    for run in layout.runs:
        for place in range(run.start, run.stop):
            added = add[run.modality][:, run.modulation_row] if isinstance(add, Rows) else add[:, place]
            tokens.append(added + factor[run.modality][:, run.modulation_row] * x[:, place])
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
@pytest.mark.parametrize("trained", ["all", "tokens", "rows", "norm"])
def test_gradients(layout: TokenLayout, batch: int, trained: str) -> None:
    """Of everything, or of a part alone, against what autograd makes of the formula."""
    norm = nn.LayerNorm(WIDTH).double()
    nn.init.normal_(norm.weight)
    given = {
        "tokens": [draw(3, layout.length, WIDTH, seed=seed, dtype=torch.float64) for seed in (0, 4)],
        "rows": [row for rows in rows_of(batch, torch.float64) for row in rows],
        "norm": [norm.weight.detach(), norm.bias.detach()],
    }
    weight = draw(3, layout.length, WIDTH, seed=9, dtype=torch.float64)
    found = []
    for ours in (True, False):
        leaves = {
            name: [tensor.clone().requires_grad_(trained in (name, "all")) for tensor in tensors]
            for name, tensors in given.items()
        }
        (x, y), rows = leaves["tokens"], Modulation(*(Rows(*leaves["rows"][i : i + 2]) for i in (0, 2, 4)))
        norm.weight, norm.bias = (nn.Parameter(tensor, tensor.requires_grad) for tensor in leaves["norm"])
        if ours:
            total = modulated_norm(norm, x, rows, layout) + gated_add(x, y, rows, layout)
        else:
            total = formula(rows.shift, norm(x), rows.gain, layout) + formula(x, y, rows.gate, layout)
        (total * weight).sum().backward()
        grads = [leaf.grad for name in ("tokens", "rows") for leaf in leaves[name]] + [norm.weight.grad, norm.bias.grad]
        found.append(grads)
    for one, other in zip(*found, strict=True):
        none = torch.zeros(())  # where there is no text, autograd has no gradient for its rows and ours are zero
        torch.testing.assert_close(*(none if g is None or not g.any() else g for g in (one, other)))
    asked = {"all": range(10), "tokens": range(2), "rows": range(2, 8), "norm": range(8, 10)}[trained]
    texts = () if layout.runs[0].modality == TEXT else (3, 5, 7)
    assert {i for i, grad in enumerate(found[0]) if grad is not None and grad.any()} == set(asked) - set(texts)


def test_gradients_that_nobody_needs_are_not_made() -> None:
    layout = LAYOUTS["one"]
    x, rows = draw(1, layout.length, WIDTH).requires_grad_(), rows_of(1)
    gated_add(x, draw(1, layout.length, WIDTH, seed=4), rows, layout).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("trained", ["tokens", "rows", "both"])
def test_what_is_kept_for_the_backward_pass(trained: str) -> None:
    """Tokens for the gradients of rows alone, rows for those of tokens alone; of a norm its input and no result."""
    layout, rows, norm = LAYOUTS["one"], rows_of(1), nn.LayerNorm(WIDTH).requires_grad_(False)
    x, y = (draw(1, layout.length, WIDTH, seed=seed).requires_grad_(trained != "rows") for seed in (0, 4))
    for row in (*rows.gate, *rows.gain):
        row.requires_grad_(trained != "tokens")
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gated_add(x, y, rows, layout)
        for_gate = [tuple(tensor.shape) for tensor in kept]
        kept.clear()
        modulated_norm(norm, x, rows, layout)
    tokens, row = tuple(y.shape), (1, 2, WIDTH)
    assert for_gate == {"tokens": [row, row], "rows": [tokens], "both": [tokens, row, row]}[trained]
    assert [tensor.data_ptr() for tensor in kept if tensor.shape == x.shape] == [x.data_ptr()]


@pytest.mark.parametrize("kind", ["hook", "class", "autocast"])
def test_a_norm_that_is_not_plain_is_called(kind: str) -> None:
    class Other(nn.LayerNorm):
        pass

    layout, rows, called = LAYOUTS["one"], rows_of(1), []
    norm = Other(WIDTH) if kind == "class" else nn.LayerNorm(WIDTH)
    if kind == "hook":
        norm.register_forward_hook(lambda *_: called.append(True))
    x = draw(1, layout.length, WIDTH).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        made = modulated_norm(norm, x, rows, layout)
        torch.testing.assert_close(made, formula(rows.shift, norm(x), rows.gain, layout))
    assert "ModulatedNorm" not in type(made.grad_fn).__name__
    assert len(called) == (2 if kind == "hook" else 0)


def test_mixed_dtypes_are_widened_as_torch_does() -> None:
    layout, rows = LAYOUTS["one"], rows_of(1, torch.bfloat16)
    x, y = draw(2, layout.length, WIDTH), draw(2, layout.length, WIDTH, seed=4, dtype=torch.bfloat16)
    result = gated_add(x, y, rows, layout)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result, formula(x, y.float(), Rows(*(row.float() for row in rows.gate)), layout), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("gradients", [False, True])
def test_compiled(gradients: bool) -> None:
    layout, rows = LAYOUTS["packed"], rows_of(1)
    x, norm = draw(2, layout.length, WIDTH), nn.LayerNorm(WIDTH)

    def both(x: Tensor) -> Tensor:
        return gated_add(x, modulated_norm(norm, x, rows, layout), rows, layout, overwrite=False)

    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x))
