"""Muon, and its pairing with AdamW."""

from __future__ import annotations

import torch
from torch import nn

from cogworks.training.optim import Muon, MuonAndAdamW, orthogonalise


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((16, 48), (48, 16), (32, 32)):
        matrix = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.3
        # Negative control: the matrix itself is far from orthogonal.
        assert torch.linalg.svdvals(matrix).max() > 3


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _optimizer(model: nn.Sequential) -> MuonAndAdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = torch.optim.AdamW([p for p in model.parameters() if p.ndim == 1], lr=0.02, weight_decay=0.0)
    return MuonAndAdamW(Muon(matrices, lr=0.02), others)


def _steps(model: nn.Sequential, optimizer: MuonAndAdamW, count: int) -> float:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    y = x.sum(1, keepdim=True).tanh()
    for _ in range(count):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_training_lowers_the_loss_and_resumes_exactly() -> None:
    straight = _model()
    first = _steps(straight, straight_optimizer := _optimizer(straight), 10)
    assert _steps(straight, straight_optimizer, 40) < 0.5 * first

    broken = _model()
    optimizer = _optimizer(broken)
    _steps(broken, optimizer, 10)
    resumed = _model()
    resumed.load_state_dict(broken.state_dict())
    fresh = _optimizer(resumed)
    fresh.load_state_dict(optimizer.state_dict())
    _steps(resumed, fresh, 40)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_learning_rates_reach_both() -> None:
    optimizer = _optimizer(_model())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    groups = [*optimizer.muon.param_groups, *optimizer.adamw.param_groups]
    assert [group["lr"] for group in groups] == [0.01, 0.01]
    optimizer.load_state_dict(optimizer.state_dict())
    schedule.step()
    groups = [*optimizer.muon.param_groups, *optimizer.adamw.param_groups]
    assert [group["lr"] for group in groups] == [0.005, 0.005]
