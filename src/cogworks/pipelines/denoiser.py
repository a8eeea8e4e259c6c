"""The closure that samplers call: guidance, conditioning and the network behind `denoise(x_t, step) -> x_0`."""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.diffusion.guidance import GuidanceSchedule, guide
from cogworks.diffusion.prediction import to_x0
from cogworks.diffusion.schedule import Step
from cogworks.nn.layout import StepInfo
from cogworks.weights.load import Components

OFS = 2.0  # the value that 1.5-I2V was always run with


class Denoiser:
    """Guided x_0 estimates.

    Attributes:
        text, negative: (B, N, D) embeddings of the two guidance branches; `negative` is None without guidance.
        image_latents: (B, C, t, h, w), concatenated on channels in both branches, or None.
    """

    def __init__(
        self,
        components: Components,
        text: Tensor,
        negative: Tensor | None,
        guidance: GuidanceSchedule,
        image_latents: Tensor | None,
    ) -> None:
        self.components = components
        self.text = text
        self.negative = negative
        self.guidance = guidance
        self.image_latents = image_latents

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """(B, C, t, h, w) float32 state -> its x_0 estimate, float32."""
        prediction = self._predict(x, step)
        if self.negative is not None:
            unconditional, conditional = prediction.chunk(2)
            prediction = guide(unconditional, conditional, self.guidance(step))
        kind = self.components.variant.schedule.prediction
        return to_x0(prediction, kind, x, step.prediction_alpha, step.prediction_sigma)

    def _predict(self, x: Tensor, step: Step) -> Tensor:
        """What the network says of every branch, float32; the unconditional rows come first."""
        latents = x if self.image_latents is None else torch.cat([x, self.image_latents], dim=1)
        text = self.text
        if self.negative is not None:
            latents, text = torch.cat([latents, latents]), torch.cat([self.negative, self.text])
        transformer, dtype = self.components.transformer, self.text.dtype
        timesteps = torch.full((len(latents),), step.timestep, device=x.device)
        ofs = None if transformer.ofs_embed is None else torch.full_like(timesteps, OFS, dtype=dtype)
        branch = "conditional" if self.negative is None else "joint"
        info = StepInfo(step.index, step.total, branch)
        return transformer(latents.to(dtype), timesteps, text, ofs, step=info).float()
