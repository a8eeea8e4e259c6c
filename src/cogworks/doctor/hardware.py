"""What computes here: the devices, their memory, and the dtype that each would compute a checkpoint in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from cogworks.doctor.findings import Finding, in_bytes
from cogworks.pipelines import load
from cogworks.pipelines.provenance import hardware

_PUBLISHED = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
_WHY = {
    torch.bfloat16: "this CPU has no units for bfloat16 (AVX-512 BF16 or AMX) and would emulate it, five times slower",
    torch.float16: "a CPU emulates float16, twelve times slower",
}


def devices() -> list[torch.device]:
    """All devices a model can be on; the first is the one a load takes by itself."""
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    found += [torch.device("mps")] if torch.backends.mps.is_available() else []
    return [*found, torch.device("cpu")]


def free_memory(device: torch.device) -> int:
    """Bytes that a new network may take on `device`."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def quiet_compute_dtype(published: torch.dtype, device: torch.device) -> torch.dtype:
    """`pipelines.load.compute_dtype` without the line it logs."""
    with _silenced(load.log):
        return load.compute_dtype(published, device)


def check_devices() -> list[Finding]:
    """A finding for each device, and one for each dtype that checkpoints are published in."""
    findings = [_cpu(), *(_accelerator(device) for device in devices() if device.type != "cpu")]
    first = devices()[0]
    if first.type == "cpu":
        built_for_cuda = torch.version.cuda is not None
        advice = (
            "If there is an NVIDIA card, its driver is missing or too old for this torch." if built_for_cuda else ""
        )
        findings.append(Finding("note", "device", "There is no accelerator: models run on the CPU.", advice))
    return findings + [_dtype(published, first) for published in _PUBLISHED]


def _cpu() -> Finding:
    device = torch.device("cpu")
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    flags = cpu_flags()
    lacking = [name for name, has in flags.items() if not has]
    without = f" (no {', '.join(lacking)})" if lacking else ""
    text = f"{hardware(device)}{without}; "
    text += f"{in_bytes(memory.available)} of {in_bytes(memory.total)} memory free."
    values: dict[str, Any] = {
        "name": hardware(device),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "flags": flags,
        "memory": memory.total,
        "memory_free": memory.available,
    }
    return Finding("ok", "cpu", text, values=values)


def cpu_flags() -> dict[str, bool]:
    """Which vector units the CPU has, of those that matter for speed."""
    return {
        "AVX2": torch.cpu._is_avx2_supported(),
        "AVX-512": torch.cpu._is_avx512_supported(),
        "AVX-512 BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }


def _accelerator(device: torch.device) -> Finding:
    if device.type == "mps":
        memory = torch.mps.recommended_max_memory()
        text = f"Apple GPU; torch may use {in_bytes(memory)} of the memory."
        return Finding("ok", "mps", text, values={"memory": memory})
    try:
        free, total = torch.cuda.mem_get_info(device)
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        advice = "Install a torch that was built for this card and driver, or compute with --device cpu."
        return Finding("problem", str(device), f"This card cannot compute: {why}", advice)
    name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    text = f"{name}, compute capability {major}.{minor}; {in_bytes(free)} of {in_bytes(total)} memory free."
    return Finding("ok", str(device), text, values={"name": name, "memory": total, "memory_free": free})


def _dtype(published: torch.dtype, device: torch.device) -> Finding:
    chosen, name = quiet_compute_dtype(published, device), _PUBLISHED[published]
    becomes = str(chosen).removeprefix("torch.")
    why = f"it is what was published, and {device.type} computes it" if chosen == published else _WHY[published]
    text = f"A {name} checkpoint is computed in {becomes}: {why}."
    return Finding("ok", "dtype", text, values={"published": name, "computed": becomes, "device": device.type})


@contextmanager
def _silenced(log: logging.Logger) -> Iterator[None]:
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
