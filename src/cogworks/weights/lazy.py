"""A network that is read from its file when it is first used, and may be dropped in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
OnBytes = Callable[[int, int], None]
"""Called with (bytes read, bytes in all) while a network is read."""


@dataclass(frozen=True)
class Form:
    """What a network is once it is in memory.

    Attributes:
        dtype: that it computes in.
        num_bytes: of its weights.
        in_file: whether the weights are those of the file as they are, which comes into memory as they are used.
    """

    dtype: torch.dtype
    num_bytes: int
    in_file: bool = False


class LazyNetwork(Generic[M]):
    """One network of a model.

    Whoever asks for it to change it, or to look inside, gets it by `lend` and may rely on it from then on: a network
    that was lent is never dropped, because its file does not have what was changed.

    Args:
        name: for people, for example "text encoder".
        inspect: the form, from the headers of the file.
        read: the network itself.
    """

    def __init__(self, name: str, inspect: Callable[[], Form], read: Callable[[OnBytes], M]) -> None:
        self.name = name
        self.lent = False
        self._inspect, self._read = inspect, read
        self._held: M | None = None

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._held is not None

    @cached_property
    def form(self) -> Form:
        """As the file gives it. Raises WeightsError if that is missing, damaged or of another model."""
        return self._inspect()

    def get(self, on_bytes: OnBytes | None = None) -> M:
        """The network, read first if need be. Whoever only uses it takes it so.

        Raises:
            WeightsError: the file is missing, damaged or of another model.
        """
        if self._held is None:
            self._held = self._read(on_bytes or _unheard)
        return self._held

    def lend(self) -> M:
        """The network, to keep and to change."""
        network = self.get()
        self.lent = True
        return network

    def put(self, network: M) -> None:
        """Use this network instead of the file's."""
        self._held, self.lent = network, True

    def drop(self) -> bool:
        """Forget the network, to be read again at its next use. Returns whether it is out of memory now."""
        if not self.lent:
            self._held = None
        return self._held is None


def _unheard(done: int, total: int) -> None:
    """The listener of a caller that does not listen."""
