"""Every tensor of a part: its name, its shape, its dtype and whether it holds numbers. One is in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from torch import nn

from cogworks.doctor.findings import Finding, in_bytes, kept, listed
from cogworks.errors import WeightsError
from cogworks.weights.components import Component
from cogworks.weights.mapping import LazyTensor, match

Tell = Callable[[str, int, int], None]
"""Called with what is being looked at, how many are done, and how many there are."""

READ_ERRORS = (WeightsError, SafetensorError, OSError, RuntimeError, ValueError, MemoryError)
"""What reading a damaged file can raise."""
FETCH = "Fetch the file again; if you trained it yourself, go back to an earlier checkpoint."


def check_tensors(part: str, component: Component, network: nn.Module | None, tell: Tell) -> list[Finding]:
    """Look at all tensors of one part.

    Args:
        part: for example "vae".
        component: what its files hold.
        network: what the configuration says it is, on the meta device; None where that could not be read, and
            names and shapes cannot be judged.
        tell: progress.
    """
    findings = [_summary(part, component)]
    if network is not None:
        findings += _names_and_shapes(part, component, network)
    return findings + _values(part, component, tell)


def _summary(part: str, component: Component) -> Finding:
    state = component.state
    numbers: Counter[str] = Counter()
    for tensor in state.values():
        numbers[str(tensor.dtype).removeprefix("torch.")] += tensor.shape.numel()
    size, total = sum(tensor.num_bytes for tensor in state.values()), sum(numbers.values())
    dtypes = " and ".join(name for name, _ in numbers.most_common())
    text = f"{len(state)} tensors of {total:,} numbers in {dtypes or 'no dtype'}, {in_bytes(size)}."
    values = {"tensors": len(state), "numbers": dict(numbers), "bytes": size, "file": component.origin}
    return Finding("ok" if state else "problem", part, text, "" if state else FETCH, values)


def _names_and_shapes(part: str, component: Component, network: nn.Module) -> list[Finding]:
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    try:
        _, mismatch = match(component.state, component.rules, origin=component.origin, expected=expected)
    except READ_ERRORS:  # two spellings of one tensor are compared, and one of them cannot be read
        return []
    advice = "Check that the file is complete and belongs to the configuration beside it."
    return [
        Finding(
            "problem",
            part,
            f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {listed(names)}.",
            advice,
            kept(names),
        )
        for what, names in (
            ("missing", mismatch.missing),
            ("that this network does not have", mismatch.extra),
            ("of the wrong shape or dtype", mismatch.misfits),
        )
        if names
    ] or [Finding("ok", part, "All names and shapes are those of the configuration.")]


def _values(part: str, component: Component, tell: Tell) -> list[Finding]:
    """Read everything."""
    broken: list[str] = []
    zero: list[str] = []
    total = len(component.state)
    for done, (name, tensor) in enumerate(component.state.items()):
        tell(part, done, total)
        try:
            finite, nothing = _judge(tensor)
        except READ_ERRORS as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return [Finding("problem", part, f"{name} of {component.origin} cannot be read: {why}.", FETCH)]
        if not finite:
            broken.append(name)
        if nothing:
            zero.append(name)
    tell(part, total, total)
    findings = []
    if broken:
        text = f"{len(broken)} of {total} tensors hold NaN or infinity: {listed(broken)}."
        findings.append(Finding("problem", part, text, FETCH, kept(broken)))
    if zero:
        text = f"{len(zero)} weight matrices hold nothing but zeros: {listed(zero)}."
        advice = "That is what a download that was cut off can leave; fetch the file again."
        findings.append(Finding("warning", part, text, advice, kept(zero)))
    return findings or [Finding("ok", part, "All numbers are finite.")]


def _judge(tensor: LazyTensor) -> tuple[bool, bool]:
    """Whether all numbers are finite, and whether it is a matrix of zeros."""
    values = tensor.read()
    if not values.is_floating_point():
        return True, False
    if values.element_size() == 1:  # torch has no arithmetic for numbers of 8 bits
        values = values.to(torch.float32)
    low, high = torch.aminmax(values) if values.numel() else (torch.zeros(()), torch.zeros(()))
    finite = bool(low.isfinite() and high.isfinite())  # a NaN anywhere makes both NaN
    return finite, values.dim() > 1 and bool(low == 0) and bool(high == 0)
