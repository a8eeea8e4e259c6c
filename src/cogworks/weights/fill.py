"""Empty networks and files to networks with weights.

A network is built on the meta device and its weights are assigned from the file, strictly and one tensor at a time:
nothing is initialised twice, and a failed load leaves nothing half-filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cogworks.config.measures import Quantization
from cogworks.errors import WeightsError
from cogworks.models.text_encoder import TextEncoder
from cogworks.weights.components import Component
from cogworks.weights.lazy import Form, M, OnBytes
from cogworks.weights.mapping import LazyTensor, State

_COMPUTABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_NARROW = (torch.float16, torch.bfloat16)


Pack = Callable[[str, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Packing:
    """How a network holds its weights, where that is not how it is published.

    Attributes:
        name: as a recipe says it.
        prepare: brings an empty network into the form that holds packed weights. What it returns makes of each tensor
            of the state dict that was, by name, the tensors of the state dict that is.
    """

    name: Quantization
    prepare: Callable[[nn.Module], Pack]


def inspect(
    network: nn.Module,
    component: Component,
    dtype: torch.dtype | None,
    device: torch.device | str,
    packing: Packing | None = None,
) -> Form:
    """What `fill` would make; reads headers alone. Arguments and errors are those of `fill`."""
    tensors = component.tensors(network)
    dtypes = _dtypes(network, tensors, dtype, component.origin)
    computes_in = next(network.parameters()).dtype
    if packing is None:
        num_bytes = sum(tensors[name].shape.numel() * found.itemsize for name, found in dtypes.items())
    else:
        pack = packing.prepare(network)
        empty = {name: torch.empty(tensors[name].shape, dtype=dtypes[name], device="meta") for name in dtypes}
        num_bytes = sum(held.nbytes for name in empty for held in pack(name, empty[name]).values())
    as_stored = all(found == tensors[name].dtype for name, found in dtypes.items())
    return Form(computes_in, num_bytes, as_stored and packing is None and torch.device(device).type == "cpu")


def fill(
    network: M,
    component: Component,
    dtype: torch.dtype | None,
    device: torch.device | str,
    on_bytes: OnBytes | None = None,
    packing: Packing | None = None,
) -> M:
    """The network with its weights, in evaluation mode.

    Args:
        network: on the meta device.
        dtype: what it is to compute in; None for what is stored.
        on_bytes: hears how much of the file is read.
        packing: how it is to hold its weights; each is packed before the next is read.

    Raises:
        WeightsError: the file does not fit, or is stored in what nothing computes in.
        ExtensionError: a weight cannot be packed.
    """
    tensors = component.tensors(network)
    dtypes = _dtypes(network, tensors, dtype, component.origin)
    pack = None if packing is None else packing.prepare(network)
    state: dict[str, Tensor] = {}
    done, total = 0, sum(tensor.num_bytes for tensor in tensors.values())
    if on_bytes is not None:
        on_bytes(done, total)
    for name, tensor in tensors.items():
        if pack is None:
            copied = dtypes[name] != tensor.dtype
            state[name] = (tensor.read_to_copy() if copied else tensor.read()).to(device, dtypes[name])
        else:
            held = tensor.read_to_copy().to(device, dtypes[name])
            state |= {key: part.clone() if part is held else part for key, part in pack(name, held).items()}
        done += tensor.num_bytes
        if on_bytes is not None:
            on_bytes(done, total)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _dtypes(
    network: nn.Module, tensors: Mapping[str, LazyTensor], dtype: torch.dtype | None, origin: str
) -> dict[str, torch.dtype]:
    """What each tensor is to be in memory, to compute in `dtype`. Casts `network`, which is empty."""
    dtype = dtype or _stored_dtype(tensors)
    if dtype not in _COMPUTABLE:
        raise WeightsError(f"{origin} is stored in {dtype}; choose a dtype to compute in")
    if not isinstance(network, TextEncoder):
        network.to(dtype)
        return {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.cast(dtype)
    linears = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, nn.Linear)}
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    if dtype not in _NARROW:
        dtypes |= {name: tensors[name].dtype for name in linears if tensors[name].dtype in _NARROW}
    return dtypes


def _stored_dtype(tensors: State) -> torch.dtype:
    """The dtype of most numbers: a float16 text encoder keeps a part in float32."""
    numbers: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.shape.numel()
    return numbers.most_common(1)[0][0]
