"""What a network predicts, and the algebra between predictions, data and noise.

x_t = alpha * x_0 + sigma * noise; v = alpha * noise - sigma * x_0. In the (x_0, noise) plane (x_t, v) is (x_0, noise)
turned by the angle of (alpha, sigma), which is why v stays informative where alpha or sigma vanishes. An EDM network
for data of unit variance predicts -v; its published form, for noise of standard deviation s beside unscaled data, is
written here with alpha = 1 / sqrt(1 + s**2), sigma = s / sqrt(1 + s**2), and is finite at alpha = 0.
Letters: B batch; for EDM, d the standard deviation of data (`EDM.sigma_data`), r = sqrt(sigma**2 + (alpha d)**2)
that of x_t. Every function takes tensors of one shape (B, ...) and levels that are floats or (B,) tensors, and computes
in float32 (float64 stays). Sources: arXiv:2202.00512 appendix D; EDM, arXiv:2206.00364 table 1.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from cogworks.config.architecture import EDM
from cogworks.errors import CogworksError

Kind = Literal["v", "eps", "x0"] | EDM
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


def network_input(x_t: Tensor, kind: Kind, alpha: Level, sigma: Level) -> Tensor:
    """What a network of `kind` is shown of `x_t`: x_t / r for EDM, `x_t` itself for every other."""
    if not isinstance(kind, EDM):
        return x_t
    x_t = as_state(x_t)
    return x_t / _spread(kind, _per_sample(alpha, x_t), _per_sample(sigma, x_t))


def prediction_target(kind: Kind, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """What a network of `kind` should output for x_t = alpha * x_0 + sigma * noise."""
    if kind == "v":
        return velocity(x0, noise, alpha, sigma)
    if kind == "eps":
        return as_state(noise)
    if kind == "x0":
        return as_state(x0)
    if isinstance(kind, EDM):  # (sigma x_0 - alpha d^2 noise) / (d r)
        x0, noise, d = as_state(x0), as_state(noise), kind.sigma_data
        a, s = _per_sample(alpha, x0), _per_sample(sigma, x0)
        return (s * x0 - d**2 * a * noise) / (d * _spread(kind, a, s))
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
        require_positive(alpha, "alpha", "an eps prediction does not determine x_0 at zero SNR; use a v or x0 network")
        return (x_t - s * prediction) / a
    if kind == "x0":
        return prediction
    if isinstance(kind, EDM):
        return _skip(kind, a, s) * x_t + _error_scale(kind, a, s) * prediction
    assert_never(kind)


def from_x0(x0: Tensor, kind: Kind, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """The prediction that stands for `x0` at `x_t`: the inverse of `to_x0`.

    Raises:
        CogworksError: `kind` is v, eps or EDM and `sigma` is 0: clean data say nothing about the noise.
    """
    x0, x_t = as_state(x0), as_state(x_t)
    a, s = _per_sample(alpha, x_t), _per_sample(sigma, x_t)
    if kind == "x0":
        return x0
    require_positive(sigma, "sigma", f"a clean state does not determine {kind}; leave out the step at sigma 0")
    if kind == "v":
        return (a * x_t - x0) / s
    if kind == "eps":
        return (x_t - a * x0) / s
    if isinstance(kind, EDM):
        return (x0 - _skip(kind, a, s) * x_t) / _error_scale(kind, a, s)
    assert_never(kind)


def x0_weight(kind: Kind, alpha: Level, sigma: Level) -> Level:
    """The weight of the squared x_0 error that the plain squared error of a prediction of `kind` amounts to.

    1 / sigma**2 for v, alpha**2 / sigma**2 for eps, 1 for x0, (r / (sigma d))**2 for EDM, which is the published
    weighting of each. Shape of the levels.
    """
    if kind == "v":
        return 1 / sigma**2
    if kind == "eps":
        return alpha**2 / sigma**2
    if kind == "x0":
        return sigma**0
    if isinstance(kind, EDM):
        return 1 / _error_scale(kind, alpha, sigma) ** 2
    assert_never(kind)


def require_positive(level: Level, name: str, advice: str) -> None:
    """Raise CogworksError, with what to do instead, where a level is 0."""
    positive = bool((level > 0).all()) if isinstance(level, Tensor) else level > 0
    if not positive:
        raise CogworksError(f"{name} must be above 0 here: {advice}")


def _spread(kind: EDM, alpha: Level, sigma: Level) -> Level:
    """r, the standard deviation of x_t."""
    return (sigma**2 + (alpha * kind.sigma_data) ** 2) ** 0.5


def _skip(kind: EDM, alpha: Level, sigma: Level) -> Level:
    """The share of x_t in x_0, alpha d**2 / r**2; EDM's c_skip / alpha."""
    return alpha * kind.sigma_data**2 / _spread(kind, alpha, sigma) ** 2


def _error_scale(kind: EDM, alpha: Level, sigma: Level) -> Level:
    """How far x_0 is off where the prediction is off by one, sigma d / r; EDM's c_out."""
    return sigma * kind.sigma_data / _spread(kind, alpha, sigma)


def _per_sample(level: Level, x: Tensor) -> Level:
    """`level` in the dtype and on the device of `x` (B, ...), one value a sample; floats pass."""
    if not isinstance(level, Tensor):
        return level
    if level.shape not in ((), x.shape[:1]):
        raise CogworksError(
            f"a level must be a float or hold one value a sample, {x.shape[0]}; got {list(level.shape)}"
        )
    return level.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
