"""The training loss, of noise and levels that the caller drew.

Letters: B batch. Sources: SAT's loss.py; the weighting, arXiv:2202.00512; its limit, arXiv:2303.09556.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.diffusion.prediction import Kind, Level, as_state, prediction_target, require_positive, x0_weight


def diffusion_loss(
    prediction: Tensor,
    x0: Tensor,
    noise: Tensor,
    alpha: Level,
    sigma: Level,
    *,
    kind: Kind = "v",
    weighting: Kind | None = None,
    min_snr: float | None = None,
) -> Tensor:
    """Weighted mean squared error of each sample's x_0 estimate, in float32.

    For v with its own weighting, 1 / (1 - alpha**2), as CogVideoX was trained, this is the plain error of v: the
    estimate is off by sigma * (v - target), and the weight cancels sigma. So it is for every kind, and comparing
    predictions keeps the digits that the detour through x_0 loses where sigma is small.

    Args:
        prediction: (B, ...) network output at x_t = add_noise(x0, noise, alpha, sigma).
        x0, noise: (B, ...) what x_t was made of.
        alpha, sigma: floats or (B,).
        weighting: weigh x_0 errors as the plain error of another kind of prediction would (`x0_weight`).
        min_snr: the highest weight of an x_0 error, > 0; SAT's `min_snr_value`. With the weighting of v, 1 + SNR, it
            is min(1 + SNR, min_snr): one more than the weight min(SNR, gamma) of arXiv:2303.09556 with gamma =
            min_snr - 1, which would leave pure noise, where SNR is 0, without any.

    Returns:
        (B,) float32, mean over all other axes.

    Raises:
        CogworksError: a `weighting` or limit is asked for an eps network at zero SNR, where it has no x_0 estimate.
    """
    target = prediction_target(kind, x0, noise, alpha, sigma)
    loss = (as_state(prediction) - target).square().flatten(start_dim=1).mean(dim=1)
    if weighting is None and min_snr is None:
        return loss
    if kind == "eps":
        require_positive(alpha, "alpha", "an eps network has no x_0 estimate to weigh at zero SNR; leave it unweighted")
    levels = [torch.as_tensor(level, dtype=torch.float64) for level in (alpha, sigma)]
    own = torch.as_tensor(x0_weight(kind, *levels))
    wanted = own if weighting is None else torch.as_tensor(x0_weight(weighting, *levels))
    wanted = wanted if min_snr is None else wanted.clamp(max=min_snr)
    return loss * (wanted / own).to(loss)
