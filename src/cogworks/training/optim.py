"""Optimizers and the average of weights."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cogworks.config.training import OptimizerOptions, Run
from cogworks.errors import RecipeError
from cogworks.training.learning_rates import learning_rate


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

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        self.muon = muon
        self.adamw = adamw
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


def build_optimizer(
    recipe: Run, module: nn.Module, matrices_of: Iterable[nn.Module] = (), *, beside: dict[str, Any] | None = None
) -> OptimizerLRSchedulerConfig:
    """The optimizer of what a module trains, with its learning rates.

    Args:
        matrices_of: modules whose matrices Muon takes, where the recipe has it.
        beside: AdamW's group of what is trained beside the module: `params`, and the options that differ.

    Raises:
        RecipeError: 8-bit AdamW is asked for and no library has it.
    """
    options = recipe.optimizer
    trained = [p for p in module.parameters() if p.requires_grad]
    # The fused kernel takes gradients as float16 scaled them, so that they could not be clipped before it.
    fused = recipe.precision != "16-mixed"
    optimizer: torch.optim.Optimizer
    if options.kind == "muon":
        assert options.matrix_learning_rate is not None
        matrices = [p for each in matrices_of for p in each.parameters() if p.ndim == 2 and p.requires_grad]
        chosen = {id(p) for p in matrices}
        others = torch.optim.AdamW([p for p in trained if id(p) not in chosen], fused=fused, **_adamw_options(options))
        optimizer = MuonAndAdamW(Muon(matrices, lr=options.matrix_learning_rate), others)
    elif options.kind == "adamw8bit":
        optimizer = _adamw_8bit()(trained, **_adamw_options(options))
    else:
        optimizer = torch.optim.AdamW(trained, fused=fused, **_adamw_options(options))
    if beside is not None:
        optimizer.add_param_group(beside)
    factor = learning_rate(recipe.learning_rate, recipe.steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _adamw_options(options: OptimizerOptions) -> dict[str, Any]:
    return {
        "lr": options.learning_rate,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }


def _adamw_8bit() -> Callable[..., torch.optim.Optimizer]:
    for library, name in (("bitsandbytes.optim", "AdamW8bit"), ("torchao.optim", "AdamW8bit")):
        with contextlib.suppress(ImportError):
            found: Callable[..., torch.optim.Optimizer] = getattr(importlib.import_module(library), name)
            return found
    raise RecipeError("optimizer.kind adamw8bit needs a library: pip install bitsandbytes (CUDA) or torchao")


def warm_average(decay: float) -> Callable[[Tensor, Tensor, int | Tensor], Tensor]:
    """An exponential moving average of weights whose decay rises to `decay`: min(decay, (1 + n) / (10 + n)).

    With a constant decay the first weights would still count for decay^n after n steps, which ruins the average of a
    short run.
    """

    def average(averaged: Tensor, current: Tensor, count: int | Tensor) -> Tensor:
        n = int(count)
        return averaged.lerp(current, 1 - min(decay, (1 + n) / (10 + n)))

    return average
