"""The same random weights on both sides, brought over by the weights maps of the package.

Every parameter is perturbed: a norm of ones and zeros would hide a wrong fold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from cogworks.weights.mapping import Rule, convert, lazy_state


@cache
def silence() -> None:
    """No progress bars and no advice from the other libraries, between the lines of a run."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Torch's global generators begin at `seed`; what they were before comes back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def perturb(network: nn.Module) -> None:
    """Add noise to every parameter and stored buffer, small enough that activations keep their size."""
    for tensor in network.state_dict().values():
        fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 1
        tensor.add_(torch.randn_like(tensor), alpha=0.1 / math.sqrt(fan_in))


def load_ours(ours: nn.Module, theirs: nn.Module, rules: tuple[Rule, ...]) -> None:
    """Copy their weights into ours."""
    expected = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    state = convert(lazy_state(theirs.state_dict()), rules, origin="diffusers", expected=expected)
    ours.load_state_dict({name: tensor.read() for name, tensor in state.items()})


@contextmanager
def of_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are of this dtype, so that a large network is never in memory in a wider one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
