"""A process that trains two steps of a recipe and prints how much memory that took, beside what the plan says.

Run as `python training_memory.py RECIPE.yaml`. Prints one JSON object in bytes: `measured`, the growth of the peak of
resident memory; `planned`; and the plan's parts. A smaller run of the same kind comes before, to load all code. For
Linux, as helpers.peak_memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from cogworks.config.recipe import load_recipe
from cogworks.training.planning.dry_run import dry_run
from cogworks.training.planning.plan import plan_training
from helpers.peak_memory import resident, settle


def main() -> None:
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    recipe = load_recipe(path, [])
    made = plan_training(recipe, torch.device("cpu"), budget=2**40)
    dry_run(load_recipe(path, ["batch_size=1", "accumulate=1", "data.size=16", "data.frames=9"]))
    held = settle()
    dry_run(recipe)
    print(json.dumps({"measured": resident("VmHWM") - held, "planned": made.peak, "kept": made.kept}))


if __name__ == "__main__":
    main()
