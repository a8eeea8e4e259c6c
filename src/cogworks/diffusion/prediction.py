"""What a network predicts, and the algebra between predictions, data and noise.

x_t = alpha * x_0 + sigma * noise; v = alpha * noise - sigma * x_0. In the (x_0, noise) plane (x_t, v) is (x_0, noise)
turned by the angle of (alpha, sigma), which is why v stays informative where alpha or sigma vanishes.
Letters: B batch. Every function takes tensors of one shape (B, ...) and levels that are floats or (B,) tensors, and
computes in float32 (float64 stays). Source: arXiv:2202.00512 appendix D.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from cogworks.errors import CogworksError

Kind = Literal["v", "eps", "x0"]
Level = float | Tensor


def as_state(x: Tensor) -> Tensor:
    """`x` in the dtype of sampler states: float32, or float64 where it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def add_noise(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """x_t = alpha * x_0 + sigma * noise."""
    x0, noise = as_state(x0), as_state(noise)
    return _per_sample(alpha, x0) * x0 + _per_sample(sigma, x0) * noise


def velocity(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """v = alpha * noise - sigma * x_0."""
    x0, noise = as_state(x0), as_state(noise)
    return _per_sample(alpha, x0) * noise - _per_sample(sigma, x0) * x0


def prediction_target(kind: Kind, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """What a network of `kind` should output for x_t = alpha * x_0 + sigma * noise."""
    if kind == "v":
        return velocity(x0, noise, alpha, sigma)
    if kind == "eps":
        return as_state(noise)
    if kind == "x0":
        return as_state(x0)
    assert_never(kind)


def to_x0(prediction: Tensor, kind: Kind, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """The x_0 that a prediction made at `x_t` stands for.

    Raises:
        CogworksError: `kind` is eps and `alpha` is 0: pure noise says nothing about x_0.
    """
    prediction, x_t = as_state(prediction), as_state(x_t)
    a, s = _per_sample(alpha, x_t), _per_sample(sigma, x_t)
    if kind == "v":
        return a * x_t - s * prediction
    if kind == "eps":
        _require_positive(alpha, "alpha", "an eps prediction does not determine x_0 at zero SNR; use a v or x0 network")
        return (x_t - s * prediction) / a
    if kind == "x0":
        return prediction
    assert_never(kind)


def from_x0(x0: Tensor, kind: Kind, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """The prediction that stands for `x0` at `x_t`: the inverse of `to_x0`.

    Raises:
        CogworksError: `kind` is v or eps and `sigma` is 0: clean data say nothing about the noise.
    """
    x0, x_t = as_state(x0), as_state(x_t)
    a, s = _per_sample(alpha, x_t), _per_sample(sigma, x_t)
    if kind == "x0":
        return x0
    _require_positive(sigma, "sigma", f"a clean state does not determine {kind}; leave out the step at sigma 0")
    if kind == "v":
        return (a * x_t - x0) / s
    if kind == "eps":
        return (x_t - a * x0) / s
    assert_never(kind)


def _per_sample(level: Level, x: Tensor) -> Level:
    """`level` in the dtype and on the device of `x` (B, ...), one value a sample; floats pass."""
    if not isinstance(level, Tensor):
        return level
    if level.shape not in ((), x.shape[:1]):
        raise CogworksError(
            f"a level must be a float or hold one value a sample, {x.shape[0]}; got {list(level.shape)}"
        )
    return level.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))


def _require_positive(level: Level, name: str, advice: str) -> None:
    positive = bool((level > 0).all()) if isinstance(level, Tensor) else level > 0
    if not positive:
        raise CogworksError(f"{name} must be above 0 here: {advice}")
