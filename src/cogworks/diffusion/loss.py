"""The training loss, of noise and levels that the caller drew.

Letters: B batch. Source: SAT's loss.py; the weighting, arXiv:2202.00512.
"""

from __future__ import annotations

from torch import Tensor

from cogworks.diffusion.prediction import Kind, Level, as_state, prediction_target


def diffusion_loss(
    prediction: Tensor, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level, *, kind: Kind = "v"
) -> Tensor:
    """Mean squared error of each sample's prediction, in float32.

    For v this is the error of the x_0 estimate with weight 1 / (1 - alpha**2), as CogVideoX was trained: the estimate
    is off by sigma * (v - target), and the weight cancels sigma. Comparing v directly keeps the digits that the
    detour through x_0 loses where sigma is small.

    Args:
        prediction: (B, ...) network output at x_t = add_noise(x0, noise, alpha, sigma).
        x0, noise: (B, ...) what x_t was made of.
        alpha, sigma: floats or (B,).

    Returns:
        (B,) float32, mean over all other axes.
    """
    target = prediction_target(kind, x0, noise, alpha, sigma)
    return (as_state(prediction) - target).square().flatten(start_dim=1).mean(dim=1)
