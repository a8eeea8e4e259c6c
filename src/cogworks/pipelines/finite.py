"""Numbers that are not finite, found where they first appear."""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.errors import NumericsError, RequestError


def check_result(tensor: Tensor, culprit: str, dtype: torch.dtype) -> None:
    """Raise NumericsError if what a network gave holds NaN or infinity.

    Args:
        culprit: what it is, for example "the transformer's prediction at step 7 of 50".
        dtype: that the network computed in.
    """
    if bool(tensor.isfinite().all()):
        return
    name = str(dtype).removeprefix("torch.")
    others = " or ".join(other for other in ("bfloat16", "float32") if other != name)
    advice = f"it overflowed in {name}: try dtype {others}"
    if dtype in (torch.float32, torch.float64):
        advice = "its weights may be damaged: `cogworks doctor` checks a model's files"
    raise NumericsError(f"{culprit} is not finite (NaN or infinity); {advice}")


def check_given(name: str, tensor: Tensor | None) -> None:
    """Raise RequestError if a tensor that the caller gave holds NaN or infinity."""
    if tensor is not None and not bool(tensor.isfinite().all()):
        raise RequestError(f"{name} holds values that are not finite (NaN or infinity); give finite numbers")
