"""What `cogworks plan` says of a training recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cogworks.cli.plan import choose_place, duration, tera
from cogworks.cli.terminal import result
from cogworks.cli.train import needing_training
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.units import format_memory
from cogworks.errors import RunError

if TYPE_CHECKING:
    from cogworks.cli.options import Machine
    from cogworks.config.recipe import Recipe
    from cogworks.training.planning.plan import TrainingPlan

_HELD = {
    "weights": "of all networks",
    "gradients": "",
    "optimizer": "its state",
    "average": "of the weights",
    "activations": "with the batch",
    "kept": "freed memory and libraries",
}


def print_plan(recipe: Recipe, machine: Machine, *, as_json: bool) -> None:
    """Plan a training run and print it. Raises RunError if the device cannot hold it."""
    with needing_training():
        from cogworks.training.planning.plan import plan_training
    from cogworks.pipelines.provenance import hardware

    device, budget, here = choose_place(machine)
    made = plan_training(recipe, device, budget=budget)
    where = f"{hardware(device) if here else 'a GPU'}, precision {recipe.precision}"
    if recipe.devices > 1:
        where += f", each of {recipe.devices}"
    result(_table(recipe, where, made), _values(where, made), as_json=as_json)
    if not made.fits:
        raise RunError(
            f"this run needs {format_memory(made.peak)} and may hold {format_memory(made.budget)}; "
            f"{_advice(recipe, made)}"
        )


def _advice(recipe: Recipe, made: TrainingPlan) -> str:
    """What takes less of what takes most."""
    if made.activations > made.optimizer + made.gradients and not recipe.activation_checkpointing:
        return "set activation_checkpointing: true"
    if made.activations > made.optimizer + made.gradients and recipe.accumulate < recipe.batch_size:
        return f"cut each batch into more parts: accumulate={recipe.batch_size}"
    if max(made.phases, key=lambda phase: phase.memory).name == "samples":
        return "make no samples on the way: samples=null"
    lora = recipe.lora if isinstance(recipe, TransformerRecipe) else None
    if lora is not None:
        return "hold the base in 8 bits: lora.base_dtype=int8"
    return "train a LoRA (lora), keep no average, or take optimizer.kind=adamw8bit"


def _table(recipe: Recipe, where: str, made: TrainingPlan) -> str:
    tokens = f", {made.tokens:,} tokens a sample" if made.tokens else ""
    held = [(name, format_memory(getattr(made, name)), note) for name, note in _HELD.items() if getattr(made, name)]
    phases = [("PHASE", "MEMORY", "TFLOP", "TIME")]
    phases += [
        (each.name, format_memory(each.memory), tera(each.work.flops), duration(each.seconds)) for each in made.phases
    ]
    phases.append(("peak, a step", format_memory(made.peak), tera(made.flops), duration(made.step_seconds)))
    total = duration(made.seconds)
    took = f", {total} in all, without reading data{' and making samples' if recipe.samples else ''}" if total else ""
    fits = "it fits" if made.fits else "it does not fit"
    return "\n".join(
        [
            f"{made.name}: {made.trained:,} of {made.parameters:,} parameters learn",
            f"{recipe.batch_size} samples a step{tokens}",
            f"on {where}",
            "",
            *_aligned(phases),
            "",
            *_aligned(held),
            "",
            f"{made.steps:,} steps{took}",
            f"it may hold {format_memory(made.budget)}: {fits}",
        ]
    )


def _aligned(rows: list[Any]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _values(where: str, made: TrainingPlan) -> dict[str, Any]:
    names = ("name", "parameters", "trained", "weights", "helpers", "gradients", "optimizer", "average", "activations")
    return {
        **{name: getattr(made, name) for name in (*names, "batch", "kept", "tokens", "steps")},
        "computed_by": where,
        "fits": made.fits,
        "budget": made.budget,
        "peak": made.peak,
        "flops": made.flops,
        "step_seconds": made.step_seconds,
        "seconds": made.seconds,
        "phases": [
            {"name": each.name, "memory": each.memory, "flops": each.work.flops, "seconds": each.seconds}
            for each in made.phases
        ],
    }
