"""Tables of what the published models take, from the planner. No weights are read, and no GPU is needed.

Peak memory and FLOPs are computed by dry runs of the code on tensors without values, for a CUDA device and the
published dtypes, for one video of the model's own size with guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cogworks.config.measures import Measures
    from cogworks.config.variants import Variant
    from cogworks.pipelines.planning.plan import Plan

CARDS = (8, 12, 16, 24, 40, 80)  # GB
PHASES = {"prompt": "prompt", "source": "image", "steps": "steps", "decode": "decode"}


def cards() -> list[str]:
    """Models by cards: the peak, and the measures that a run would take by itself."""
    from cogworks.config.variants import PUBLISHED

    rows = []
    for variant in PUBLISHED.values():
        plans = [_plan(variant, budget=gigabytes * 10**9) for gigabytes in CARDS]
        rows.append([f"`{variant.name}`", *(_cell(plan) for plan in plans)])
    return _table(["model", *(f"{gigabytes} GB" for gigabytes in CARDS)], rows)


def phases() -> list[str]:
    """Memory by phase, without measures and with those that keep the pixels."""
    from dataclasses import replace

    from cogworks.config.measures import Measures
    from cogworks.config.variants import PUBLISHED

    rows = []
    for variant in PUBLISHED.values():
        apart = Measures(offload=True, split_guidance=True)
        for measures in (Measures(), apart, replace(apart, strips=8)):
            plan = _plan(variant, measures=measures)
            memory = {phase.name: f"{phase.memory / 1e9:.1f} GB" for phase in plan.phases}
            rows.append([f"`{variant.name}`", _words(measures), *(memory.get(name, "") for name in PHASES)])
    return _table(["model", "measures", *PHASES.values()], rows)


def flops() -> list[str]:
    """Work by phase."""
    from cogworks.config.variants import PUBLISHED

    rows = []
    for variant in PUBLISHED.values():
        plan = _plan(variant)
        work = {phase.name: phase.flops / 1e12 for phase in plan.phases}
        steps = variant.defaults.steps
        rows.append([f"`{variant.name}`", *(_tera(work.get(name)) for name in PHASES), _tera(work["steps"] / steps)])
    return _table(["model", *PHASES.values(), "one step"], rows)


TABLES: dict[str, Callable[[], list[str]]] = {"cards": cards, "phases": phases, "flops": flops}


def _plan(variant: Variant, *, budget: int = 10**12, measures: Measures | None = None) -> Plan:
    import torch

    from cogworks.pipelines.geometry import geometry
    from cogworks.pipelines.planning.plan import RunShape, plan_run

    dtype = getattr(torch, variant.dtype)
    shape = RunShape(
        geometry=geometry(variant, None, None, None),
        num_videos=1,
        num_prompts=1,
        guided=True,
        steps=variant.defaults.steps,
        source="image" if variant.takes_image else "none",
    )
    return plan_run(
        variant,
        shape,
        device=torch.device("cuda"),
        dtype=dtype,
        text_dtype=dtype,
        budget=budget,
        measures=measures,
        seconds=False,
    )


def _cell(plan: Plan) -> str:
    if not plan.fits:
        return "no"
    return f"{plan.peak / 1e9:.1f} GB: {_words(plan.measures)}"


def _words(measures: Measures) -> str:
    words = [name for name in ("offload", "split_guidance", "slicing") if getattr(measures, name)]
    if measures.strips > 1:
        words.append(f"strips={measures.strips}")
    if measures.tile:
        words.append("tile {1}x{0}".format(*measures.tile))
    return ", ".join(f"`{word}`" for word in words) or "none"


def _tera(work: float | None) -> str:
    return "" if work is None else f"{work:,.0f} TFLOP" if work >= 10 else f"{work:.1f} TFLOP"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
