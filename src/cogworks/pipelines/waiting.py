"""Where frames wait that the VAE carries from one piece of a clip to the next.

Two frames of the input of every convolution wait until the next piece comes: where layers work in strips, they are most
of what is held.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Hashable
from functools import partial

import torch
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.nn.time_context import Waiting
from cogworks.pipelines.memory import SHARED_MEMORY


class OnHost(UserDict[Hashable, Tensor]):
    """Frames that wait in the memory of the host, in their layout, and come to the device whenever they are asked for.

    Args:
        device: where they are asked for.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __setitem__(self, key: Hashable, frames: Tensor) -> None:
        super().__setitem__(key, frames.to("cpu"))

    def __getitem__(self, key: Hashable) -> Tensor:
        return super().__getitem__(key).to(self.device)


def waits_on_host(measures: Measures, device: torch.device) -> bool:
    """Whether frames are to wait on the host: with strips, where that is not the device's own memory."""
    return measures.strips > 1 and device.type not in SHARED_MEMORY


def waiting_room(measures: Measures, device: torch.device) -> Callable[[], Waiting]:
    """What makes the place where the frames of one stream wait."""
    return partial(OnHost, device) if waits_on_host(measures, device) else dict
