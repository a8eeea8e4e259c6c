"""Optimizers, learning rates and the average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is replaced by the nearest orthogonal matrix.

    torch's own Muon orthogonalises in bfloat16, which a CPU without bfloat16 units emulates twenty times slower;
    this one works in the dtype of the weights. The update is scaled to the root mean square of AdamW's (0.2), so
    that both take learning rates of the same kind.

    Source: Jordan et al., "Muon: an optimizer for hidden layers", 2024; scale of arXiv:2502.16982.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(state["momentum"], group["momentum"])
                scale = 0.2 * max(weight.shape) ** 0.5
                weight.add_(orthogonalise(nesterov), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """U V^T of the singular value decomposition of `matrix`, roughly: singular values end in 0.7..1.2.

    Five Newton-Schulz iterations with a quintic polynomial.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for matrices, AdamW for everything else, as one optimizer."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], matrix_lr: float, lr: float
    ) -> None:
        self.muon = Muon(matrices, lr=matrix_lr)
        self.adamw = torch.optim.AdamW(list(others), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        super().__init__(self.muon.param_groups + self.adamw.param_groups, {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        # Loading replaces the groups of both; the shared list follows, so that learning rates reach them.
        self.param_groups = self.muon.param_groups + self.adamw.param_groups


def trapezoid(optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int, cooldown: float) -> LambdaLR:
    """Rise over `warmup_steps`, stay, and fall linearly to zero over the last `cooldown` of `steps`.

    A pure function of the step: resuming with another `steps` moves the fall.
    """
    falling = max(1.0, steps * cooldown)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1), max(0.0, steps - step) / falling))


def warm_average(decay: float) -> Callable[[Tensor, Tensor, int | Tensor], Tensor]:
    """An exponential moving average of weights whose decay rises to `decay`: min(decay, (1 + n) / (10 + n)).

    With a constant decay the first weights would still count for decay^n after n steps, which ruins the average of a
    short run.
    """

    def average(averaged: Tensor, current: Tensor, count: int | Tensor) -> Tensor:
        n = int(count)
        return averaged.lerp(current, 1 - min(decay, (1 + n) / (10 + n)))

    return average
