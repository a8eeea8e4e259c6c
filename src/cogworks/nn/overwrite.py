"""Whether what a layer returned may be overwritten."""

from __future__ import annotations

import torch
from torch import nn

_PLAIN = (nn.Linear, nn.LayerNorm)
RETURNS_FRESH = "returns_fresh"
"""Attribute of a module in a layer's place: True where nobody keeps what it returns."""


def may_overwrite(layer: nn.Module) -> bool:
    """Whether nobody but the caller can hold what `layer` has just returned, so that it may be written over.

    Not with gradients on, which need it; not where an extension stands in the layer's place that does not say that its
    results are fresh, or a hook listens: both may keep what they saw; and not while torch compiles, which finds such
    places itself.
    """
    return (
        not torch.is_grad_enabled()
        and (isinstance(layer, _PLAIN) or getattr(layer, RETURNS_FRESH, False))
        and not layer._forward_hooks
        and not torch.compiler.is_compiling()
    )
