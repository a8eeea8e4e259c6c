"""A meter for whole training steps: the dry runs of `pipelines.planning`, with gradients and mixed precision.

Autograd works on tensors without values as on any: what it keeps for the backward pass is alive for the meter, and the
operations of the backward pass come by like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry

from cogworks.pipelines.memory import is_glibc
from cogworks.pipelines.planning.meter import FusedAttention, Meter, Work
from cogworks.pipelines.planning.workspace import workspace_bytes
from cogworks.training.planning.heap import Heap

aten = torch.ops.aten

_ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Stage:
    """A stretch of a step: the most bytes that were alive in it, and what was done."""

    name: str
    alive: int
    work: Work


class TrainingMeter(Meter):
    """Counts the operations of a backward pass too, by stages.

    Attributes:
        stages: those that have ended.
        most: bytes that were ever alive at once; `peak` is that of the stage.
        heap: on a CPU, what the process holds for them.
    """

    def __init__(self, device: torch.device, free: Iterable[Tensor] = ()) -> None:
        self.heap = Heap() if device.type == "cpu" and is_glibc() else None
        super().__init__(device, free)
        self.stages: list[Stage] = []
        self.most = 0
        self._begun = Work()

    @property
    def held(self) -> int:
        """Most bytes that a process would have held: `most`, with what its allocator keeps besides."""
        return self.most if self.heap is None else max(self.most, self.heap.peak)

    def end_stage(self, name: str) -> None:
        """What was done since the last stage ended was this one."""
        self.stages.append(Stage(name, self.peak, self.work - self._begun))
        self.most = max(self.most, self.peak)
        self.peak, self._begun = self.live, self.work

    def _run(self, key: Hashable, func: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Any:
        packet = func._overloadpacket
        if packet is aten.convolution_backward:
            return self._run_convolution_backward(func, args)
        if packet.__name__.endswith("_backward"):
            key = None  # some give None for a gradient that nobody wants, which a remembered result would not hold
        before = self.work
        result = super()._run(key, func, args, kwargs, inputs)
        if packet is _ATTENTION_BACKWARD:
            formula = flop_registry[aten._scaled_dot_product_flash_attention_backward]
            self.work = before + Work(attention=formula(*args[:4], out_val=result), operations=1)
        return result

    def _run_convolution_backward(self, func: Any, args: Any) -> Any:
        """Each gradient is a convolution of its own, and holds what the forward one held."""
        gradient, x, weight, _, *options = args
        result = func(*args)
        for made in result:
            if made is not None:
                self._watch(made)
        flops = flop_registry[aten.convolution_backward](*args, out_val=result)
        workspace = workspace_bytes(aten.convolution.default, (x, weight, None, *options[:6]), gradient, self.device)
        # Both, and the gradient that comes out, are beside it in the kernel's layout.
        workspace += (2 * x.numel() + gradient.numel()) * x.element_size()
        self._count(Work(convolution=flops, operations=1), workspace)
        return result

    def _count(self, work: Work, workspace: int) -> None:
        super()._count(work, workspace)
        if self.heap is not None and workspace:
            self.heap.allocate("workspace", workspace)
            self.heap.release("workspace")

    def _hold(self, key: int, size: int) -> None:
        super()._hold(key, size)
        if self.heap is not None and size:
            self.heap.allocate(key, size)

    def _release(self, key: int, size: int) -> None:
        super()._release(key, size)
        if self.heap is not None and size:
            self.heap.release(key)


def backward(loss: Tensor) -> None:
    """What `loss.backward()` does.

    That call would leave every function mode, and activations are computed again in there, in the same way as before.
    """
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _gradients(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], *, retain_graph: bool | None = None, **_: object
) -> tuple[Tensor, ...]:
    """What `torch.autograd.grad` of scalars does, likewise; it hands on all its options, most at their defaults."""
    return _engine_run_backward(
        outputs,
        tuple(torch.ones_like(output) for output in outputs),
        bool(retain_graph),
        False,
        inputs,
        allow_unreachable=False,
        accumulate_grad=False,
    )


@contextmanager
def dry_step(meter: Meter, precision: str) -> Iterator[AsOnDevice]:
    """Operations inside are counted as a device does them in one of Lightning's precisions."""
    with torch.enable_grad(), meter, AsOnDevice(narrow_dtype(precision), meter.device) as mode:
        yield mode


def narrow_dtype(precision: str) -> torch.dtype | None:
    """What autocast computes in, in one of Lightning's precisions; None where there is no autocast."""
    if not precision.endswith("-mixed"):
        return None
    return torch.bfloat16 if precision.startswith("bf16") else torch.float16


# What autocast computes in the narrow dtype, and what it widens.
_NARROW = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.scaled_dot_product_attention} | {
    getattr(place, name)
    for place in (torch, Tensor)
    for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm")
    if hasattr(place, name)
}
_WIDE = {F.mse_loss, F.l1_loss}
_WIDE_ON_GPU = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, torch.pow, Tensor.pow, torch.exp, torch.log}


class AsOnDevice(FusedAttention):
    """Fused attention, and autocast for tensors without values, which torch's own does not see.

    Weights that take gradients are cast once, and the copies are alive while this is entered, as with autocast.

    Args:
        narrow: what autocast computes in; None for a run without it.

    Attributes:
        paused: autocast is off for a while.
    """

    def __init__(self, narrow: torch.dtype | None, device: torch.device) -> None:
        super().__init__()
        self.narrow = narrow
        self.paused = False
        self.wide = _WIDE | (_WIDE_ON_GPU if device.type == "cuda" else set())
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            with self:
                return _gradients(*args, **kwargs)
        dtype = self.narrow if func in _NARROW else torch.float32 if func in self.wide else None
        if self.narrow is not None and dtype is not None and not self.paused:
            args, kwargs = self._cast(args, dtype), self._cast(kwargs, dtype)
        if func is F.scaled_dot_product_attention and _learns_mask(*args, **kwargs):
            return func(*args, **kwargs)  # no fused kernel gives a gradient of the mask
        return super().__torch_function__(func, types, args, kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point() or value.dtype == dtype:
                return value
            if not (value.is_leaf and value.requires_grad and dtype == self.narrow):
                return value.to(dtype)
            if id(value) not in self._copies:
                self._copies[id(value)] = value.to(dtype)
            return self._copies[id(value)]
        if isinstance(value, tuple | list):
            return type(value)(self._cast(item, dtype) for item in value)
        if isinstance(value, dict):
            return {name: self._cast(item, dtype) for name, item in value.items()}
        return value


def _learns_mask(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> bool:
    return attn_mask is not None and attn_mask.requires_grad
