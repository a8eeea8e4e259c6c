"""`cogworks.load`: a name or a folder to a pipeline, in a dtype that the device computes well."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from cogworks.config.measures import Measures, Quantization
from cogworks.config.units import parse_memory
from cogworks.errors import RequestError
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.quantization import announce, packing_of
from cogworks.weights.load import load_components, load_variant
from cogworks.weights.source import resolve

log = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    text_dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    measures: Measures | None = None,
    memory: int | str | None = None,
    tile: tuple[int, int] | None = None,
    quantize: Quantization | None = None,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    text_encoder: str | Path | None = None,
) -> Pipeline:
    """Open a model. Its files are checked now; its networks are read when they are first used.

    Args:
        model: a bundled name ("tiny"), a diffusers folder, a SAT folder, or a Hugging Face id.
        dtype: what to compute in; by default what was published, but float32 on a CPU without units for it.
        text_dtype: what the text encoder computes in; by default `dtype`. Weights that are stored in fewer bits stay
            so in memory.
        device: "cuda", "mps", "cpu"; by default the best there is.
        measures: what every run does to need less memory. By default each run takes those of a plan; with measures
            that keep the networks in memory, transformer and VAE are read now.
        memory: what a plan may use, in bytes or as "8GB"; by default what is free.
        tile: height and width in pixels of tiles that the VAE is to work in besides what a plan takes: less memory, and
            pixels that are close, not equal. Never done without asking.
        quantize: hold the linears of the transformer's blocks in 8 bits, which changes pixels: "int8-weights" for less
            memory, "int8" to multiply in 8 bits too, for speed on CPUs with units for that. Never done without asking.
        variant: precision in the names of the weight files, for example "fp16".
        revision: branch, tag or commit on the hub.
        local_files_only: use no network.
        text_encoder: another model to take text encoder and tokenizer from, where `model` has none.

    Raises:
        WeightsError: nothing is there, or what is there is incomplete, damaged or no CogVideoX.
        RequestError: no such dtype, device or quantization, an amount of memory that is none, or both a tile and
            measures.
    """
    if tile is not None and measures is not None:
        raise RequestError("give tile to a run that is planned, or all measures by hand, with their tile; not both")
    packing = None if quantize is None else packing_of(quantize)
    budget = None if memory is None else parse_memory(memory)
    chosen_device = choose_device(device)
    folder = resolve(model, revision=revision, local_files_only=local_files_only, file_variant=variant)
    published = getattr(torch, load_variant(folder).dtype)
    components = load_components(
        model,
        dtype=choose_dtype(dtype) or compute_dtype(published, chosen_device),
        text_dtype=choose_dtype(text_dtype),
        device=chosen_device,
        revision=revision,
        local_files_only=local_files_only,
        file_variant=variant,
        text_encoder=text_encoder,
        packing=packing,
    )
    if quantize is not None:
        announce(quantize, chosen_device)
    pipeline = Pipeline(components, measures=measures, memory=budget, tile=tile, model=str(model))
    if measures is not None:
        pipeline.load_networks()
    return pipeline


def compute_dtype(published: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: `published`, unless the device would have to emulate it.

    Without its units, bfloat16 is five times slower than float32 on a CPU, and float16 twelve times; float32 is also
    nearer to the published result. The choice is logged.
    """
    if device.type != "cpu" or published == torch.float32:
        return published
    if published == torch.bfloat16 and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return published
    log.info("computing in float32: this CPU would emulate %s", str(published).removeprefix("torch."))
    return torch.float32


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device of this name, or the best there is. Raises RequestError if it cannot be used here."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


def choose_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The floating-point dtype of this name; None stays. Raises RequestError if there is none."""
    names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, names.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise RequestError(f"no floating-point dtype named {dtype!r}; there are float32, float16 and bfloat16")
    return found
