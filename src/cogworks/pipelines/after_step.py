"""What happens between two sampling steps: progress is told, the caller looks in, the state is kept.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from cogworks.diffusion.schedule import Step
from cogworks.errors import RequestError
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.finite import check_given
from cogworks.pipelines.progress import OnProgress, Progress
from cogworks.pipelines.resume import Keeper

if TYPE_CHECKING:
    from cogworks.pipelines.generate import Pipeline

StepCallback = Callable[["Pipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]


class AfterStep:
    """What a sampler calls after each of its steps.

    Attributes:
        pipeline: handed to the caller's callback.
        callback: the caller's, which may replace tensors; see `Pipeline.generate`.
        keeper: keeps the state.
        on_progress: hears of phase "steps".
    """

    def __init__(
        self, pipeline: Pipeline, callback: StepCallback | None, keeper: Keeper, on_progress: OnProgress
    ) -> None:
        self.pipeline, self.callback, self.keeper, self.on_progress = pipeline, callback, keeper, on_progress

    def __call__(self, denoise: Denoiser, step: Step, state: Tensor, x0: Tensor) -> Tensor | None:
        """Returns what replaces the state (B, C, t, h, w), or None."""
        self.keeper.after_step(step, state, x0)
        self.on_progress(Progress("steps", step.index + 1, step.total))
        return None if self.callback is None else self._ask(self.callback, denoise, step, state)

    def _ask(self, callback: StepCallback, denoise: Denoiser, step: Step, state: Tensor) -> Tensor | None:
        tensors = {"latents": state.transpose(1, 2), "prompt_embeds": denoise.text}
        if denoise.negative is not None:
            tensors["negative_prompt_embeds"] = denoise.negative
        returned = callback(self.pipeline, step.index, step.timestep, dict(tensors)) or {}
        for name, tensor in returned.items():
            if name not in tensors or tensor.shape != tensors[name].shape:
                raise RequestError(
                    f"callback_on_step_end returned {name} of shape {tuple(tensor.shape)}; it may replace "
                    + ", ".join(f"{known} {tuple(t.shape)}" for known, t in tensors.items())
                )
            check_given(f"{name}, which callback_on_step_end returned,", tensor)
        denoise.text = returned.get("prompt_embeds", denoise.text).to(denoise.text)
        if denoise.negative is not None:
            denoise.negative = returned.get("negative_prompt_embeds", denoise.negative).to(denoise.negative)
        denoise.look_again()
        return returned["latents"].transpose(1, 2).to(state) if "latents" in returned else None
