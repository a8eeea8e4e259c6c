"""Small random models as pipelines of diffusers, and ours loaded from the folders that those saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cogworks
from cogworks.pipelines.generate import Pipeline
from helpers.small_models import SCHEDULE, diffusers_pipeline

PUBLISHED_SAMPLER = {"2b": "ddim", "5b": "dpm", "5b-i2v": "dpm", "1.5": "dpm", "1.5-i2v": "dpm"}


@dataclass(frozen=True)
class PipelinePair:
    """One model, in diffusers and here.

    Attributes:
        theirs: its text-to-video or image-to-video pipeline, whichever the model is for.
        folder: where diffusers saved it.
        ours: loaded from there.
    """

    theirs: Any
    folder: Path
    ours: Pipeline

    def with_sampler(self, sampler: str, kind: type | None = None) -> Any:
        """Their pipeline with another sampler, or another of their pipelines over the same components."""
        components = {**self.theirs.components, "scheduler": _scheduler(sampler, self.theirs.scheduler.config)}
        return _quiet((kind or type(self.theirs))(**components))


def pipeline_pair(variation: str, folder: Path) -> PipelinePair:
    """A model of one of the variations of `small_models`, with the published schedule, saved to `folder`."""
    made = diffusers_pipeline(variation)
    components = made.components
    shift = 3.0 if variation == "2b" else 1.0
    components["scheduler"] = _scheduler(PUBLISHED_SAMPLER[variation], {**SCHEDULE, "snr_shift_scale": shift})
    components["vae"].register_to_config(
        scaling_factor=1.15258426 if variation == "2b" else 0.7, invert_scale_latents=variation.startswith("1.5")
    )
    theirs = _quiet(type(made)(**components))
    theirs.save_pretrained(folder)
    return PipelinePair(theirs, folder, cogworks.load(folder))


def _scheduler(sampler: str, config: Any) -> Any:
    """Their scheduler class for one of our names."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

    return {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}[sampler].from_config(config)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
