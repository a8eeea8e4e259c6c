"""Classifier-free guidance and how its scale changes over the steps.

Letters: N sampling steps (after `truncate` for video to video).
Source: arXiv:2207.12598; the cosine schedule, SAT's guiders.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from cogworks.diffusion.prediction import as_state
from cogworks.diffusion.schedule import Step

GuidanceSchedule = Callable[[Step], float]

COSINE_POWER = 5  # of every published model


def guide(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """uncond + guidance_scale * (cond - uncond), in float32.

    Guiding predictions and guiding x_0 estimates of one state is the same: both are affine in each other.
    """
    uncond, cond = as_state(uncond), as_state(cond)
    return uncond + guidance_scale * (cond - uncond)


def constant_guidance(guidance_scale: float) -> GuidanceSchedule:
    """The same scale at every step."""
    return lambda step: guidance_scale


def timestep_cosine_guidance(guidance_scale: float) -> GuidanceSchedule:
    """The published dynamic guidance: `cosine_ramp` fed with N minus the *timestep*.

    Reference quirk: a ramp over the step index was probably meant. The timestep (0..999) makes the argument run
    from far below 0 to N, so the scale jumps about in [1, 1 + guidance_scale] and the published samples were made
    that way (docs/parity.md#dynamic-guidance). EDM's timesteps lie near 0, and the scale near its top.
    """
    return lambda step: cosine_ramp(step.total - step.timestep, step.total, guidance_scale)


def cosine_ramp(position: float, num_steps: int, guidance_scale: float) -> float:
    """1 + guidance_scale * (1 - cos(pi * (position / num_steps)**5)) / 2.

    For `position` from 0 to `num_steps` a smooth rise from 1 to 1 + guidance_scale; defined for any number.
    """
    return 1 + guidance_scale * (1 - math.cos(math.pi * (position / num_steps) ** COSINE_POWER)) / 2
