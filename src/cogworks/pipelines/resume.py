"""A run on disk: what sampling goes on from after an interruption, to the same pixels.

The file holds all that the steps to come depend on: the state, the last estimate (a second-order sampler extrapolates
from it), and what the network is told. Random numbers have keys, so there is nothing of theirs to keep. It is replaced
as a whole: a process that is killed leaves the last one.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, h w latents.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogworks import __version__
from cogworks.diffusion.samplers import Estimate
from cogworks.diffusion.schedule import Step
from cogworks.errors import RequestError
from cogworks.pipelines.conditioning import Start
from cogworks.pipelines.prompts import Branches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        branches: what the network is told.
        image_latents: (B, C, t, h, w), or None.
        latents: (B, C, t, h, w) the state, float32.
        estimate: (B, C, t, h, w) the x_0 of the last step, or None before the first.
        steps: done.
    """

    branches: Branches
    image_latents: Tensor | None
    latents: Tensor
    estimate: Tensor | None = None
    steps: int = 0

    @classmethod
    def beginning(cls, branches: Branches, start: Start) -> RunState:
        """Before the first step."""
        return cls(branches, start.image_latents, start.latents)

    def previous(self, steps: list[Step]) -> Estimate | None:
        """The last step that was done and its estimate, as samplers take it."""
        return None if self.estimate is None else (steps[self.steps - 1], self.estimate)


@dataclass(frozen=True)
class RunCheckpoint:
    """Where the state of one run is kept, and how often.

    Attributes:
        path: of the file.
        key: names the run: all that its pixels depend on. A file with another key is not used.
        every_steps: keep the state after so many steps, at least 1.
        every_seconds: or when so many seconds have gone by since it was kept last. After the last step it is kept in
            any case.
    """

    path: Path
    key: str
    every_steps: int = 5
    every_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.every_steps < 1 or not self.every_seconds >= 0:
            raise RequestError(
                f"a checkpoint is kept every so many steps, at least 1, or seconds; got {self.every_steps} and "
                f"{self.every_seconds}"
            )

    def read(self, like: Tensor, total_steps: int) -> RunState | None:
        """The state that was kept, on the device of `like`, or None. What cannot be used is left alone and announced.

        Args:
            like: (B, C, t, h, w), what the state of this run looks like.
            total_steps: of this run.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt", device=str(like.device)) as file:
                about = file.metadata() or {}
                if about.get("key") != self.key:
                    log.warning("%s is of another run: starting from the beginning", self.path)
                    return None
                other = [f"{name} {about.get(name)}" for name, ours in _versions().items() if about.get(name) != ours]
                if other:
                    log.warning("%s was kept by %s: starting from the beginning", self.path, ", ".join(other))
                    return None
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
            state = RunState(
                Branches(held["text"], held.get("negative")),
                held.get("image_latents"),
                held["latents"],
                held["estimate"],
                int(about["steps"]),
            )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning("%s cannot be read (%s): starting from the beginning", self.path, error)
            return None
        if state.latents.shape != like.shape or not 1 <= state.steps <= total_steps:
            log.warning("%s does not fit this run: starting from the beginning", self.path)
            return None
        log.info("going on after step %d of %d", state.steps, total_steps)
        return state

    def keep(self, state: RunState) -> None:
        """Replace the file by `state`. A disk that does not take it is announced and does not end the run."""
        tensors = {
            "text": state.branches.text,
            "negative": state.branches.negative,
            "image_latents": state.image_latents,
            "latents": state.latents,
            "estimate": state.estimate,
        }
        present = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in tensors.items()
            if tensor is not None
        }
        # Always the same name: what a killed process left behind is written over.
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(present, temporary, {"key": self.key, "steps": str(state.steps), **_versions()})
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            log.warning("the run cannot be kept in %s (%s): it goes on, and could not be resumed", self.path, error)

    def remove(self) -> None:
        """Delete the file, when what it is for is done."""
        for path in (self.path, self.path.with_name(f".{self.path.name}.tmp")):
            path.unlink(missing_ok=True)


class Keeper:
    """Keeps the state of a run as often as its checkpoint says."""

    def __init__(self, checkpoint: RunCheckpoint | None, begun: RunState) -> None:
        self.checkpoint = checkpoint
        self.begun = begun
        self._kept_steps, self._kept_time = begun.steps, time.monotonic()

    def after_step(self, step: Step, latents: Tensor, estimate: Tensor) -> None:
        """Tell it of a step that is done: the new state and its x_0 estimate."""
        if self.checkpoint is None:
            return
        done, now = step.index + 1, time.monotonic()
        due = done - self._kept_steps >= self.checkpoint.every_steps
        due = due or now - self._kept_time >= self.checkpoint.every_seconds or done == step.total
        if due:
            begun = self.begun
            self.checkpoint.keep(RunState(begun.branches, begun.image_latents, latents, estimate, done))
            self._kept_steps, self._kept_time = done, time.monotonic()


def check_resumable(checkpoint: RunCheckpoint | None, **given: Any) -> None:
    """Raise RequestError where a run with a checkpoint could not go on to the same pixels.

    Args:
        given: the arguments of the run that matter: `seed`, `generator`, `callback_on_step_end`.
    """
    if checkpoint is None:
        return
    if given["generator"] is not None or given["seed"] is None:
        raise RequestError("a run with a checkpoint needs a seed: numbers from elsewhere would not be the same again")
    if given["callback_on_step_end"] is not None:
        raise RequestError("a run with a checkpoint takes no callback_on_step_end: what it changes is not kept")


def _versions() -> dict[str, str]:
    return {"cogworks": __version__, "torch": str(torch.__version__)}
