"""How the learning rate moves over a run: pure functions of the step, as factors of the rate at the top.

A resumed run goes on where it was, and one that is resumed with another length follows the shape of that length.
Letters: k step from 0, N steps of the run, W of its warm-up, n = k + 1 iterations as SAT counts them.
Sources: `constant`, `linear` and `cosine`, diffusers' schedules with warm-up; those named `sat_`, the SAT trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from cogworks.config.training import LearningRateOptions

SAT_WARMUP = 0.01  # of the run
SAT_FLAT = 0.05  # factor of the automatic warm-up
SAT_LEAST = 0.1  # of the rate, which SAT's cosine comes down to after N steps


def learning_rate(options: LearningRateOptions, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate in step k of a run of `steps`, for `torch.optim.lr_scheduler.LambdaLR`."""
    warmup = options.warmup_steps
    match options.shape:
        case "trapezoid":
            return partial(trapezoid, steps=steps, warmup_steps=warmup, cooldown=options.cooldown)
        case "constant":
            return partial(rise, warmup_steps=warmup)
        case "linear":
            return partial(linear, steps=steps, warmup_steps=warmup)
        case "cosine":
            return partial(cosine, steps=steps, warmup_steps=warmup)
        case "sat_constant":
            return partial(sat_constant, steps=steps, auto_warmup=options.sat_auto_warmup)
        case "sat_linear":
            return partial(sat_linear, steps=steps, auto_warmup=options.sat_auto_warmup)
        case "sat_cosine":
            return partial(sat_cosine, steps=steps, auto_warmup=options.sat_auto_warmup)


def trapezoid(step: int, *, steps: int, warmup_steps: int, cooldown: float) -> float:
    """Rise over W steps, stay, and fall in a straight line to zero over the last `cooldown` (a share) of the run."""
    falling = max(1.0, steps * cooldown)
    return min(1.0, (step + 1) / (warmup_steps + 1), max(0.0, steps - step) / falling)


def rise(step: int, *, warmup_steps: int) -> float:
    """k / W up to 1, which stays. The first step of a warm-up changes nothing."""
    return step / warmup_steps if step < warmup_steps else 1.0


def linear(step: int, *, steps: int, warmup_steps: int) -> float:
    """`rise`, and then a straight line to 0 in step N."""
    if step < warmup_steps:
        return rise(step, warmup_steps=warmup_steps)
    return max(0, steps - step) / max(1, steps - warmup_steps)


def cosine(step: int, *, steps: int, warmup_steps: int) -> float:
    """`rise`, and then half a cosine to 0 in step N."""
    if step < warmup_steps:
        return rise(step, warmup_steps=warmup_steps)
    return (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))) / 2


def sat_constant(step: int, *, steps: int, auto_warmup: int) -> float:
    """SAT's warm-up, and then 1. What SAT calls `exponential` is the same."""
    return _sat_start(step, steps, auto_warmup) or 1.0


def sat_linear(step: int, *, steps: int, auto_warmup: int) -> float:
    """SAT's warm-up, and then (N - (n - W)) / N, which ends the run at W / N."""
    return _sat_start(step, steps, auto_warmup) or (1 - _sat_progress(step, steps))


def sat_cosine(step: int, *, steps: int, auto_warmup: int) -> float:
    """SAT's warm-up, and then half a cosine that would reach a tenth of the rate W steps after the run."""
    half_wave = (1 + math.cos(math.pi * min(1.0, _sat_progress(step, steps)))) / 2
    return _sat_start(step, steps, auto_warmup) or SAT_LEAST + (1 - SAT_LEAST) * half_wave


def _sat_start(step: int, steps: int, auto_warmup: int) -> float | None:
    """The factor in SAT's warm-up, None after it.

    Reference quirk: the automatic steps are flat at a twentieth and come first, so that a run whose warm-up is
    shorter jumps from there to its top rate.
    """
    iteration, warmup = step + 1, SAT_WARMUP * steps
    if iteration <= auto_warmup:
        return min(SAT_FLAT, iteration / warmup)
    return iteration / warmup if iteration <= warmup else None


def _sat_progress(step: int, steps: int) -> float:
    return (step + 1 - SAT_WARMUP * steps) / steps
