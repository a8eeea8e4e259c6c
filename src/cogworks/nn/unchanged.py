"""Whether modules still hold the weights that something was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn


class Seen:
    """The weights of `modules` as they are now.

    A module that was replaced, a weight that was replaced, moved or written to, and a LoRA's scale that was set all
    count as a change; writing through `Tensor.data` is the one way round it.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._tensors = _tensors(modules)  # held, so that no other tensor can be taken for one of them
        self._state = [_state(tensor) for tensor in self._tensors]

    def unchanged(self, modules: Iterable[nn.Module]) -> bool:
        """Whether the same modules of the network, as they are now, hold the same weights."""
        tensors = _tensors(modules)
        return (
            len(tensors) == len(self._tensors)
            and all(a is b for a, b in zip(tensors, self._tensors, strict=True))
            and [_state(tensor) for tensor in tensors] == self._state
        )


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for module in modules for tensor in chain(module.parameters(), module.buffers())]


def _state(tensor: Tensor) -> tuple[int, int]:
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()
