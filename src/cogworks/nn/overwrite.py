"""Whether what a layer returned may be overwritten."""

from __future__ import annotations

import torch
from torch import nn

_PLAIN = (nn.Linear, nn.LayerNorm)


def may_overwrite(layer: nn.Module) -> bool:
    """Whether nobody but the caller can hold what `layer` has just returned, so that it may be written over.

    Not with gradients on, which need it; not where an extension stands in the layer's place or a hook listens, since
    both may keep what they saw; and not while torch compiles, which finds such places itself.
    """
    return (
        not torch.is_grad_enabled()
        and isinstance(layer, _PLAIN)
        and not layer._forward_hooks
        and not torch.compiler.is_compiling()
    )
