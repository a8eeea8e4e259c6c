"""What watches over a run, from its recipe."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback, WeightAveraging

from cogworks.config.training import Run
from cogworks.training.optim import warm_average
from cogworks.training.safety.checkpoints import FOLDER
from cogworks.training.safety.keep import KeepCheckpoints
from cogworks.training.safety.sentinel import Sentinel
from cogworks.training.watching.watch import OnStep, watchers


def build_callbacks(recipe: Run, on_step: OnStep | None = None) -> list[Callback]:
    """The callbacks of a run, in their order: each step is judged, averaged, shown, and then kept."""
    callbacks: list[Callback] = []
    if recipe.sentinel is not None:
        callbacks.append(Sentinel(recipe.sentinel))
    if recipe.average is not None:
        callbacks.append(WeightAveraging(avg_fn=warm_average(recipe.average.decay)))
    return [*callbacks, *watchers(recipe, on_step), KeepCheckpoints(recipe.output / FOLDER, recipe.checkpoints)]
