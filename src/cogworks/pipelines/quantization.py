"""Transformers in 8 bits, by the name that a person gives: `cogworks.load(..., quantize="int8")`."""

from __future__ import annotations

import logging
from functools import partial
from typing import get_args

import torch

from cogworks.config.measures import Quantization
from cogworks.errors import RequestError
from cogworks.extensions.int8 import Int8Weights, quantize_empty
from cogworks.extensions.int8_products import Int8Products, why_not_integers
from cogworks.weights.fill import Packing

log = logging.getLogger(__name__)

QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)


def packing_of(quantize: Quantization) -> Packing:
    """How a transformer holds its weights.

    Raises:
        RequestError: there is no such way.
    """
    if quantize not in QUANTIZATIONS:
        raise RequestError(f"no quantization named {quantize!r}; there are {' and '.join(QUANTIZATIONS)}")
    extension = Int8Products if quantize == "int8" else Int8Weights
    return Packing(quantize, partial(quantize_empty, extension=extension))


def announce(quantize: Quantization, device: torch.device) -> None:
    """Warn of int8 where it does not do what it is for."""
    reason = why_not_integers(device.type)
    if quantize == "int8" and reason is not None:
        log.warning(
            "%s: int8 gives the same video as where they are, but for rounding, and is no faster than without it; "
            "int8-weights takes as little memory and is nearer to the exact result",
            reason,
        )
