"""How fast a device is: a calibration of a second, remembered for each device, dtype and version of torch."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from cogworks.config.places import cache_folder
from cogworks.nn.products import linear
from cogworks.pipelines.planning.meter import Work
from cogworks.weights.storage import replacing

log = logging.getLogger(__name__)

TRIAL_SECONDS = 0.15
"""Each kind of work is repeated so long; the best time counts."""


@dataclass(frozen=True)
class Rates:
    """What a device does in a second.

    Attributes:
        matmul, attention, convolution: floating-point operations.
        bandwidth: bytes that an elementwise operation reads and writes.
        overhead: seconds that an operation takes however small it is.
    """

    matmul: float
    attention: float
    convolution: float
    bandwidth: float
    overhead: float

    def seconds(self, work: Work) -> float:
        """Expected time of some work."""
        return (
            work.matmul / self.matmul
            + work.attention / self.attention
            + work.convolution / self.convolution
            + work.moved / self.bandwidth
            + work.operations * self.overhead
        )


def calibrate(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a device: remembered, or measured now, in less than 2 seconds, and remembered."""
    known = remembered_rates(device, dtype)
    if known is not None:
        return known
    log.info("measuring how fast %s computes, once", device)
    rates = _measure(device, dtype)
    try:
        path = _file()
        content = {**_read(path), _key(device, dtype): asdict(rates)}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        log.debug("the calibration is not remembered: %s", error)
    return rates


def remembered_rates(device: torch.device, dtype: torch.dtype) -> Rates | None:
    """What an earlier calibration found, or None. A file that is damaged counts as none."""
    values = _read(_file()).get(_key(device, dtype))
    names = {field.name for field in fields(Rates)}
    if not isinstance(values, dict) or set(values) != names:
        return None
    if not all(isinstance(value, int | float) and value > 0 for value in values.values()):
        return None
    return Rates(**values)


def _file() -> Path:
    return cache_folder() / "calibration.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return f"{name}, {str(dtype).removeprefix('torch.')}, torch {torch.__version__}"


@torch.no_grad()
def _measure(device: torch.device, dtype: torch.dtype) -> Rates:
    # An accelerator is fast on large work alone; a CPU is on small work already, and has to be done with it soon.
    large = 1 if device.type == "cpu" else 4
    numbers = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers).to(device, dtype)

    rows, width = 512 * large, 512 * large
    x, weight = some(rows, width), some(2 * width, width)
    heads = some(1, 8, 512 * large, 64)
    # Large enough not to fall into torch's slow loop, which small convolutions of one sample take on a CPU.
    clip, kernel = some(1, 64 * large, 6, 64, 40), some(64 * large, 64 * large, 3, 3, 3)
    many = some(2**22 * large)
    few = some(64)
    seconds = {
        "matmul": _best(lambda: linear(x, weight), device),
        "attention": _best(lambda: F.scaled_dot_product_attention(heads, heads, heads), device),
        "bandwidth": _best(lambda: many + many, device),
        "overhead": _best(lambda: [few + few for _ in range(100)], device) / 100,
    }
    matmul = 2 * rows * width * 2 * width / seconds["matmul"]
    convolution = matmul
    if device.type != "cpu" or dtype == torch.float32:  # a CPU may take ten seconds for its first in another dtype
        best = _best(lambda: F.conv3d(clip, kernel, padding=(0, 1, 1)), device)
        convolution = 2 * kernel.numel() * 4 * 64 * 40 / best
    return Rates(
        matmul=matmul,
        attention=4 * heads.shape[1] * heads.shape[2] ** 2 * heads.shape[3] / seconds["attention"],
        convolution=convolution,
        bandwidth=3 * many.numel() * many.element_size() / seconds["bandwidth"],
        overhead=seconds["overhead"],
    )


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several runs, after one that counts only if it takes longer than all should."""
    best, end = float("inf"), 0.0
    for trial in range(1000):
        begun = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.get_device_module(device).synchronize()
        now = time.perf_counter()
        if trial == 0 and now - begun < TRIAL_SECONDS:
            end = now + TRIAL_SECONDS
            continue
        best = min(best, now - begun)
        if now > end:
            break
    return best
