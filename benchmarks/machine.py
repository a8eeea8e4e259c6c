"""The machine, the programs and the commit that a result was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from results import Machine, Versions

import cogworks
from cogworks.pipelines.provenance import hardware

ROOT = Path(__file__).parent.parent
# Names of /proc/cpuinfo; the first that is there counts.
FLAGS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "amx": ("amx_tile",),
    "avx512_bf16": ("avx512_bf16",),
}


def describe(*, gpu: bool = False) -> Machine:
    """This machine; with `gpu`, its first CUDA device too."""
    return Machine(
        cpu=hardware(torch.device("cpu")),
        flags=cpu_flags(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        gpu=_gpu() if gpu and torch.cuda.is_available() else None,
    )


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> dict[str, bool]:
    """Which vector units there are; none are said of a system without /proc."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    return {name: any(flag in found for flag in names) for name, names in FLAGS.items()}


def _gpu() -> str:
    card = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    return f"{card.name}, compute capability {card.major}.{card.minor}, {memory}, driver {driver}"


def versions() -> Versions:
    """Of the programs that take part, and of the source."""
    return Versions(
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=version("diffusers"),
        cogworks=cogworks.__version__,
        commit=_git("rev-parse", "HEAD") or "unknown",
        changed=bool(_git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")),
    )


def _git(*arguments: str) -> str:
    """What git says; nothing where there is no git or no repository."""
    try:
        asked = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
