"""Random numbers keyed by what they are for, so that results do not depend on order, batch or process.

Every generator lives on the CPU: the same key gives the same numbers on every device.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on their order."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator keyed by `key`, for example (seed, sample) or (seed, step, replica)."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*key))
