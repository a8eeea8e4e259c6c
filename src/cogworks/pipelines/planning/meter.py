"""The meter of a dry run: what operations on tensors without values would take on a real device.

A forward runs on meta tensors, whose shapes are real and whose storage is not; the meter sees every operation, keeps
count of the bytes of all storages that are alive at once, and adds up the work. Nothing here knows a network: what a
network does is what is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cogworks.pipelines.memory import SHARED_MEMORY
from cogworks.pipelines.planning.results import Form, result_forms, written_tensor
from cogworks.pipelines.planning.workspace import workspace_bytes

aten = torch.ops.aten

_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
_CONVOLUTION = aten.convolution


@dataclass(frozen=True)
class Work:
    """What is done, whatever the device.

    Attributes:
        matmul, attention, convolution: floating-point operations of each kind; a multiply-add is two.
        moved: bytes read and written by all other operations.
        operations: how many, views not counted.
    """

    matmul: int = 0
    attention: int = 0
    convolution: int = 0
    moved: int = 0
    operations: int = 0

    @property
    def flops(self) -> int:
        return self.matmul + self.attention + self.convolution

    def __add__(self, other: Work) -> Work:
        return Work(
            self.matmul + other.matmul,
            self.attention + other.attention,
            self.convolution + other.convolution,
            self.moved + other.moved,
            self.operations + other.operations,
        )

    def __mul__(self, times: int) -> Work:
        return Work(
            self.matmul * times,
            self.attention * times,
            self.convolution * times,
            self.moved * times,
            self.operations * times,
        )

    def __sub__(self, other: Work) -> Work:
        return self + other * -1


@dataclass(frozen=True)
class Rise:
    """What a stretch of work did to a meter.

    Attributes:
        peak: most bytes above those that were held before.
        left: bytes that were held more when it was over.
    """

    peak: int
    left: int
    work: Work


@dataclass(frozen=True)
class _Effect:
    """What an operation without side effects does, for the next one with the same arguments.

    Attributes:
        made: what the results look like.
        several: the results come as a tuple.
    """

    work: Work
    workspace: int
    made: tuple[Form, ...]
    several: bool


class Meter(TorchDispatchMode):
    """Counts while it is entered.

    Tensors from outside count from the moment they are first used: inputs, and tables that are kept between runs.

    Args:
        device: that the run is planned for.
        free: tensors that do not count: the weights, which a plan adds by itself.

    Attributes:
        live: bytes that are held now.
        peak: most bytes that were ever held, with the workspace of the operation.
        peak_as_used: likewise, if each of the free tensors counted from its first use on.
        work: all that was done.
    """

    def __init__(self, device: torch.device, free: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = self.peak_as_used = 0
        self.work = Work()
        self._counted = ("meta", "cpu") if device.type in SHARED_MEMORY else ("meta",)
        self._storages: dict[int, weakref.ref] = {}
        self._effects: dict[Hashable, _Effect] = {}
        self._unused: dict[int, int] = {}  # bytes of the free tensors that no operation has met
        self._used = 0
        for tensor in free:
            self._watch(tensor, counts=False)
            self._unused[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a mode that says otherwise imports torch's compiler, 1.5 seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_view(func):
            return func(*args, **kwargs)
        inputs = list(_tensors((args, kwargs)))
        if func is aten._local_scalar_dense.default and inputs[0].is_meta:
            return True  # a check that all is well ("is every value finite?") finds that it is
        for tensor in inputs:
            self._watch(tensor)
        key = (func, _frozen(args), _frozen(kwargs)) if all(tensor.is_meta for tensor in inputs) else None
        effect = self._effects.get(key)
        if effect is None:
            return self._run(key, func, args, kwargs, inputs)
        made = [form.tensor() for form in effect.made]
        for tensor in made:
            self._watch(tensor)
        self._count(effect.work, effect.workspace)
        return tuple(made) if effect.several else made[0]

    def _run(self, key: Hashable, func: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Any:
        """Run an operation that is met for the first time; one without side effects is remembered as `key`."""
        forms = None if key is None else result_forms(func, args, kwargs)
        written = None if key is None else written_tensor(func, args, kwargs)
        result: Any
        if written is not None:
            result = written
        elif forms is None:
            result = func(*args, **kwargs)
        else:
            several = len(func._schema.returns) > 1
            empty = tuple(form.tensor() for form in forms)
            result = empty if several else empty[0]
        made = list(_tensors(result))
        fresh = [self._watch(tensor) for tensor in made]
        if not any(fresh) and not func._schema.is_mutable:
            return result
        work = _work(func, args, kwargs, inputs, made)
        workspace = workspace_bytes(func, args, made[0], self.device)
        self._count(work, workspace)
        if key is not None and all(fresh) and all(tensor.is_meta for tensor in made):
            seen = tuple(map(Form.of, made))
            self._effects[key] = _Effect(work, workspace, seen, not isinstance(result, Tensor))
        return result

    def observe(self, call: Callable[[], Tensor]) -> tuple[Tensor, Rise]:
        """The result of a call, and what it did."""
        live, peak, work = self.live, self.peak, self.work
        self.peak = live
        result = call()
        rise = Rise(peak=self.peak - live, left=self.live - live, work=self.work - work)
        self.peak = max(self.peak, peak)
        return result, rise

    def repeat(self, rise: Rise) -> None:
        """Count an observed call once more. What it leaves is the caller's to make."""
        self.work += rise.work
        self._reach(rise.peak)

    def _count(self, work: Work, workspace: int) -> None:
        self.work += work
        self._reach(workspace)

    def _reach(self, beside: int = 0) -> None:
        """Hold so many bytes for a moment, beside what is alive."""
        held = self.live + beside
        self.peak, self.peak_as_used = max(self.peak, held), max(self.peak_as_used, held + self._used)

    def _watch(self, tensor: Tensor, *, counts: bool = True) -> bool:
        """Count a tensor's storage for as long as it lives. Returns whether it is seen for the first time."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._unused:
            self._used += self._unused.pop(key)
            self._reach()
        if key in self._storages:
            return False
        size = storage.nbytes() if counts and tensor.device.type in self._counted else 0
        self._storages[key] = weakref.ref(storage, partial(self._forget, key, size))
        self._hold(key, size)
        return True

    def _forget(self, key: int, size: int, reference: weakref.ref) -> None:
        del self._storages[key]
        self._release(key, size)

    def _hold(self, key: int, size: int) -> None:
        self.live += size
        self._reach()

    def _release(self, key: int, size: int) -> None:
        self.live -= size


class FusedAttention(TorchFunctionMode):
    """Softmax attention as one kernel that holds its result and a number a row, which is what devices run.

    On meta tensors torch would choose the plain form, with a matrix of all scores.
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    return _ATTENTION(q, k, v, 0.0, False, attn_mask=attn_mask, scale=scale)[0]


def _work(func: Any, args: Any, kwargs: Any, inputs: list[Tensor], made: list[Tensor]) -> Work:
    """What one operation does; torch's own formulas say how many FLOPs."""
    packet = func._overloadpacket
    if packet is _ATTENTION:
        formula = flop_registry[aten._scaled_dot_product_flash_attention]
        return Work(attention=formula(*args[:3], out_val=made), operations=1)
    if packet is aten._int_mm:
        return Work(matmul=flop_registry[aten.mm](*args, out_val=made[0]), operations=1)
    if packet in flop_registry:
        flops = flop_registry[packet](*args, **kwargs, out_val=made[0])
        return Work(convolution=flops, operations=1) if packet is _CONVOLUTION else Work(matmul=flops, operations=1)
    return Work(moved=sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *made)), operations=1)


@cache
def _is_view(func: Any) -> bool:
    """Whether the result is another look at the argument, so that nothing is allocated or done."""
    if func is aten._unsafe_view.default:
        return True
    returned = [value.alias_info for value in func._schema.returns]
    return any(info is not None and not info.is_write for info in returned)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _frozen(value: Any) -> Hashable:
    """What of an argument decides on the result of a dry run: of a tensor all but its values."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, tuple | list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(item)) for name, item in value.items())
    return value
