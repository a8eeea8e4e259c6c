"""The choice of the attention kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cogworks.errors import ExtensionError
from cogworks.extensions.attach import Place, Wrapper, WrapperFactory
from cogworks.nn.layout import TokenLayout

KernelName = Literal["math", "flash", "efficient", "cudnn"]

_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True)
class AttentionKernel:
    """Run softmax attention by one kernel of torch and no other. Without it torch chooses by device and shape.

    Attributes:
        name: "math" is the plain form on every device; "flash" runs on CPU and GPU; the others on GPU alone.
    """

    name: KernelName

    def __post_init__(self) -> None:
        if self.name not in _BACKENDS:
            raise ExtensionError(f"no attention kernel named {self.name!r}; there are {', '.join(_BACKENDS)}")

    @property
    def place(self) -> Place:
        return Place.KERNEL

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        return [("blocks.*.attention.inner", lambda path, inner: _KernelAttention(inner, _BACKENDS[self.name]))]


class _KernelAttention(Wrapper):
    def __init__(self, inner: nn.Module, backend: SDPBackend) -> None:
        super().__init__(inner)
        self.backend = backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        with sdpa_kernel(self.backend):
            return self.inner(q, k, v, layout)
