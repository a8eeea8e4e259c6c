"""The closure that samplers call: guidance, conditioning and the network behind `denoise(x_t, step) -> x_0`."""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.diffusion.guidance import GuidanceSchedule, guide
from cogworks.diffusion.prediction import to_x0
from cogworks.diffusion.schedule import Step
from cogworks.nn.layout import StepInfo
from cogworks.pipelines.prompts import Branches
from cogworks.weights.load import Components

OFS = 2.0  # the value that 1.5-I2V was always run with


class Denoiser:
    """Guided x_0 estimates.

    Attributes:
        text, negative: (B, N, D) embeddings of the two guidance branches; `negative` is None without guidance.
        image_latents: (B, C, t, h, w), concatenated on channels in both branches, or None.
    """

    def __init__(
        self, components: Components, branches: Branches, guidance: GuidanceSchedule, image_latents: Tensor | None
    ) -> None:
        self.components = components
        self.text, self.negative = branches
        self.guidance = guidance
        self.image_latents = image_latents

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """(B, C, t, h, w) float32 state -> its x_0 estimate, float32."""
        if self.negative is None:
            prediction = self._predict(x, self.text, StepInfo(step.index, step.total, "conditional"), step.timestep)
        else:
            both = torch.cat([self.negative, self.text])
            info = StepInfo(step.index, step.total, "joint")
            unconditional, conditional = self._predict(torch.cat([x, x]), both, info, step.timestep).chunk(2)
            prediction = guide(unconditional, conditional, self.guidance(step))
        kind = self.components.variant.schedule.prediction
        return to_x0(prediction, kind, x, step.prediction_alpha, step.prediction_sigma)

    def _predict(self, latents: Tensor, text: Tensor, info: StepInfo, timestep: int) -> Tensor:
        """What the network says, float32. The rows of `latents` hold the state once for each branch in `text`."""
        transformer, dtype = self.components.transformer, self.text.dtype
        if self.image_latents is not None:
            image = self.image_latents.repeat(len(latents) // len(self.image_latents), 1, 1, 1, 1)
            latents = torch.cat([latents, image], dim=1)
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        ofs = None if transformer.ofs_embed is None else torch.full_like(timesteps, OFS, dtype=dtype)
        return transformer(latents.to(dtype), timesteps, text, ofs, step=info).float()
