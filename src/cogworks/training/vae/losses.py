"""What a VAE is trained for, beside the likeness of pictures: functions on tensors, computed in float32.

Letters: B batch, C latent channels, T frames, H W pixels, t h w latents.
Sources: arXiv:2408.06072, section 2.1 and its appendix; the hinge loss of arXiv:1705.02894; the adaptive weight of
arXiv:2012.09841, section 3.1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cogworks.models.vae_posterior import Posterior

MAX_ADAPTIVE_WEIGHT = 1e4
MIN_GRADIENT = 1e-4
"""Added to the norm that is divided by."""
ERROR_FLOOR = 1e-5
"""Squared error, of pixels in [-1, 1], below which a clip has come back: 56 dB of PSNR."""


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Compute in the dtype of the operands, on the tensor's device; the device of plans has no autocast to turn off."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def kl_divergence(posterior: Posterior, reduction: Literal["sum", "mean"]) -> Tensor:
    """Divergence from the unit Gaussian in nats, averaged over samples.

    Args:
        reduction: over the latents (C, t, h, w) of one sample: their sum, as the published trainers have it, or mean.

    Returns:
        A scalar.
    """
    kl = posterior.kl()
    return kl if reduction == "sum" else kl / posterior.mean[0].numel()


def psnr(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean over clips (B, 3, T, H, W) in [-1, 1] of the peak signal-to-noise ratio, in decibels; without gradient."""
    return 10 * torch.log10(4 / (decoded.detach() - pixels).square().mean((1, 2, 3, 4))).mean()


def error_decibels(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean over clips (B, 3, T, H, W) in [-1, 1] of the squared error, in decibels above `ERROR_FLOOR`; 0 for none."""
    return 10 * torch.log10(1 + (decoded - pixels).square().mean((1, 2, 3, 4)) / ERROR_FLOOR).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises: real clips above 1, reconstructions below -1, logits of any shape."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """What the VAE minimises: minus the mean logit of its reconstructions."""
    return -fake.float().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, scale: float = 1.0) -> Tensor:
    """The factor that makes the adversarial gradient as large as the other, at the last layer of the decoder.

    Args:
        reconstruction: scalar, the error of the reconstruction.
        adversarial: scalar, see `hinge_generator`.
        last_layer: a weight that both depend on.
        scale: both are multiplied by it before they are differentiated, and their gradients divided after. Mean losses
            have gradients about one over the number of pixels, which float16 would round to zero.

    Returns:
        A scalar without gradient, in [0, 1e4]: ||d reconstruction|| / (||d adversarial|| + 1e-4).
    """
    norms = [
        torch.autograd.grad(loss * scale, last_layer, retain_graph=True)[0].float().norm() / scale
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + MIN_GRADIENT)).clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
