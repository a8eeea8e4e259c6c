"""What a recipe says beside the request: contents by hash, versions, the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cogworks import __version__
from cogworks.config.measures import Measures, Quantization
from cogworks.config.request import GenerationRequest
from cogworks.errors import RequestError


def request_key(
    request: GenerationRequest, inputs: dict[str, str], weights: str | None, quantize: Quantization | None = None
) -> str:
    """Names what is asked for: equal for equal requests on equal inputs and weights, wherever the files lie.

    Args:
        request: with its seed; None stays what the model fills in.
        inputs: hashes of the input files, by field.
        weights: hash of the model's weights.
        quantize: how they are held, which changes every pixel.
    """
    hidden = {"image", "video", "model", "loras"}  # hashes stand for them
    asked = request.model_dump(mode="json", exclude=hidden)
    adapters = [use.scale for use in request.loras]
    held = [] if quantize is None else [quantize]
    text = json.dumps([asked, adapters, inputs, weights or request.model, *held], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_inputs(request: GenerationRequest) -> dict[str, str]:
    """sha256 of every file that the request names. Raises RequestError if one cannot be read."""
    files = {name: path for name in ("image", "video") if (path := getattr(request, name)) is not None}
    files |= {f"lora {number}": use.path for number, use in enumerate(request.loras, start=1)}
    return {name: hash_file(path) for name, path in files.items()}


def hash_file(path: Path) -> str:
    """sha256 of a file's content, in hex. Raises RequestError if it is no file that can be read."""
    try:
        if not path.is_file():  # a pipe would be empty when it is read again, a device has no end
            raise RequestError(f"no such file: {path}")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from None


def describe_run(
    device: torch.device,
    dtype: torch.dtype,
    text_dtype: torch.dtype,
    measures: Measures,
    quantize: Quantization | None = None,
) -> dict[str, Any]:
    """What computes, as plain values."""
    return {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "text_dtype": str(text_dtype).removeprefix("torch."),
        **({} if quantize is None else {"quantize": quantize}),
        "measures": json.loads(json.dumps(asdict(measures))),  # as it is when it comes back from a file
        "hardware": hardware(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
    }


def versions() -> dict[str, str]:
    """Of what takes part in the numbers."""
    return {"cogworks": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def hardware(device: torch.device) -> str:
    """What computes, in words: a GPU's name, or the CPU's with its cores and vector units."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
