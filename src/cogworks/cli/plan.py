"""`cogworks plan`: what a run would take, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogworks.cli.options import Content, Machine, Settings, given
from cogworks.cli.terminal import AsJson, result
from cogworks.errors import RequestError, RunError, WeightsError

if TYPE_CHECKING:
    import torch

    from cogworks.config.measures import Measures
    from cogworks.config.request import GenerationRequest
    from cogworks.config.variants import Variant
    from cogworks.pipelines.planning.plan import Plan
    from cogworks.pipelines.planning.shape import InMemory


def plan(
    recipe: Path | None = None,
    /,
    *overrides: str,
    content: Content = Content(),
    settings: Settings = Settings(),
    machine: Machine = Machine(),
    as_json: AsJson = False,
) -> None:
    """Say what memory and time a video would take, and what would be done to fit it; nothing is loaded.

    Takes the options of `generate`. Files that they name are not read. The status is 1 if it fits in no way.
    With a training recipe it says what that run would take; of the options, --device, --memory and --json apply.

    Args:
        recipe: A YAML file, as for `train`; leave it out to plan a video.
        overrides: Values to use instead of the recipe's, as key=value.
        as_json: Print one JSON object instead of a table.
    """
    from cogworks.config.request import parse_request

    if recipe is not None:
        asked = given(content, settings)
        unused = [name for name in ("dtype", "tile", "quantize") if getattr(machine, name) is not None]
        if asked or unused:
            raise RequestError(f"a recipe says all of a run itself; {', '.join([*asked, *unused])} is for videos")
        plan_recipe(recipe, list(overrides), machine, as_json=as_json)
        return
    request = parse_request({**given(content, settings), "prompt": "any"})
    plan_request(request, machine, as_json=as_json)


def plan_recipe(path: Path, overrides: list[str], machine: Machine, *, as_json: bool) -> None:
    """Print the plan of a training run. Raises RunError if the device cannot hold it."""
    from cogworks.cli.plan_training import print_plan
    from cogworks.config.recipe import load_recipe

    print_plan(load_recipe(path, overrides), machine, as_json=as_json)


def choose_place(machine: Machine) -> tuple[torch.device, int | None, bool]:
    """The device of a plan, its budget in bytes where one is given, and whether the device is here.

    Raises:
        RequestError: no such device; or one that is not here, of unknown size.
    """
    import torch

    from cogworks.config.units import parse_memory
    from cogworks.pipelines.load import choose_device

    budget = None if machine.memory is None else parse_memory(machine.memory)
    here = machine.device is None or not machine.device.startswith("cuda") or torch.cuda.is_available()
    if not here and budget is None:
        raise RequestError("there is no GPU here: say how much memory it has, for example --memory 24GB")
    return choose_device(machine.device) if here else torch.device("cuda"), budget, here


def plan_request(request: GenerationRequest, machine: Machine, *, as_json: bool) -> None:
    """Print the plan of a request. Raises RunError if the device cannot hold it in any way."""
    from dataclasses import replace

    import av  # noqa: F401  a run writes its file with it: what that loads is held before, and not the run's
    import torch

    from cogworks.config.variants import VARIANTS
    from cogworks.pipelines.load import choose_dtype, compute_dtype
    from cogworks.pipelines.planning.plan import plan_run, what_would_fit
    from cogworks.pipelines.planning.shape import request_shape
    from cogworks.pipelines.provenance import hardware
    from cogworks.weights.load import load_variant
    from cogworks.weights.source import resolve

    variant = VARIANTS.get(request.model) or load_variant(resolve(request.model, local_files_only=True))
    device, budget, here = choose_place(machine)
    dtype = choose_dtype(machine.dtype) or compute_dtype(getattr(torch, variant.dtype), device)
    shape = replace(request_shape(variant, request), quantize=machine.quantize)
    made = plan_run(
        variant,
        shape,
        device=device,
        dtype=dtype,
        text_dtype=dtype,
        budget=budget,
        tile=machine.tile_sides(),
        seconds=here,
        in_memory=_in_memory(request, variant, dtype, device),
    )
    where = f"{hardware(device) if here else 'a GPU'}, {str(dtype).removeprefix('torch.')}"
    if machine.quantize is not None:
        where += f", the transformer in 8 bits ({machine.quantize})"
    result(_table(variant.name, where, made), _values(variant.name, where, made), as_json=as_json)
    if not made.fits:
        raise RunError(what_would_fit(variant, made, device=device, dtype=dtype, text_dtype=dtype))


def _in_memory(request: GenerationRequest, variant: Variant, dtype: torch.dtype, device: torch.device) -> InMemory:
    """What a process that makes nothing but this has in memory when it begins; only headers are read."""
    from cogworks.pipelines.memory import SHARED_MEMORY
    from cogworks.pipelines.planning.shape import InMemory
    from cogworks.weights.load import inspect_vae
    from cogworks.weights.source import resolve

    try:
        folder = resolve(request.model, local_files_only=True)
        vae_in_file = inspect_vae(folder, variant, dtype=dtype, device=device).in_file
    except WeightsError:  # a published model that is not here: it is stored as it was published
        vae_in_file = device.type == "cpu" and str(dtype) == f"torch.{variant.dtype}"
    changed = frozenset({"transformer"} if request.loras else ())
    kept = changed if device.type in SHARED_MEMORY else frozenset()
    return InMemory(loaded=changed, kept=kept, vae_in_file=vae_in_file)


def _table(model: str, where: str, made: Plan) -> str:
    from cogworks.config.units import format_memory

    size = made.shape.geometry
    rows = [("PHASE", "MEMORY", "TFLOP", "TIME")]
    rows += [
        (phase.name, format_memory(phase.memory), tera(phase.flops), duration(phase.seconds)) for phase in made.phases
    ]
    rows.append(("peak, total", format_memory(made.peak), tera(made.flops), duration(made.seconds)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    how = describe_measures(made.measures)
    fits = f"it fits {how}" if made.fits else f"it does not fit, even {how}"
    return "\n".join(
        [
            f"{model}: {size.num_frames} frames of {size.width}x{size.height}, {made.shape.steps} steps",
            f"on {where}",
            "",
            *lines,
            "",
            f"it may hold {format_memory(made.budget)}: {fits}",
            *_process(made),
        ]
    )


def _process(made: Plan) -> list[str]:
    """What the phases do not count: Python, torch and all else that is there before a run."""
    from cogworks.config.units import format_memory

    if not made.baseline:
        return []
    return [f"the process holds {format_memory(made.baseline)} before, and up to {format_memory(made.total)} in all"]


def describe_measures(measures: Measures) -> str:
    """What is done to need less memory, in words."""
    done = [
        words
        for taken, words in (
            (measures.slicing, "one video at a time through the VAE"),
            (measures.split_guidance, "the halves of guidance one after the other"),
            (measures.offload, "the networks in memory one after the other"),
            (measures.strips > 1, f"the VAE in {measures.strips} strips"),
        )
        if taken
    ]
    if measures.tile is not None:
        height, width = measures.tile
        done.append(f"the VAE in tiles of {width}x{height}, which changes pixels a little")
    return "with " + ", ".join(done) if done else "as it is"


def tera(flops: int) -> str:
    """Two digits at least, and none that mean nothing."""
    tera = flops / 1e12
    return f"{tera:,.0f}" if tera >= 100 else f"{tera:.2g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _values(model: str, where: str, made: Plan) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": model,
        "computed_by": where,
        "fits": made.fits,
        "budget": made.budget,
        "peak": made.peak,
        "total": made.total,
        "flops": made.flops,
        "seconds": made.seconds,
        "measures": asdict(made.measures),
        "shape": asdict(made.shape),
        "phases": [
            {"name": phase.name, "memory": phase.memory, "flops": phase.flops, "seconds": phase.seconds}
            for phase in made.phases
        ],
    }
