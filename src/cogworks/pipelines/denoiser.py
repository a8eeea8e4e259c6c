"""The closure that samplers call: guidance, conditioning and the network behind `denoise(x_t, step) -> x_0`."""

from __future__ import annotations

import torch
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.diffusion.guidance import GuidanceSchedule, guide
from cogworks.diffusion.prediction import Kind, network_input, to_x0
from cogworks.diffusion.schedule import Step
from cogworks.models.transformer import Transformer
from cogworks.nn.layout import StepInfo
from cogworks.pipelines.finite import check_result
from cogworks.pipelines.memory import Relieve, with_relief
from cogworks.pipelines.prompts import Branches

OFS = 2.0  # the value that 1.5-I2V was always run with


class Denoiser:
    """Guided x_0 estimates.

    Attributes:
        transformer: what predicts.
        kind: of its predictions.
        text, negative: (B, N, D) embeddings of the two guidance branches; `negative` is None without guidance.
        image_latents: (B, C, t, h, w), concatenated on channels in both branches, or None.
        measures: of the run; where memory runs out in a step it is done again with what `relieve` adds to them.
    """

    def __init__(
        self,
        transformer: Transformer,
        kind: Kind,
        branches: Branches,
        guidance: GuidanceSchedule,
        image_latents: Tensor | None,
        measures: Measures,
        relieve: Relieve,
    ) -> None:
        self.transformer, self.kind = transformer, kind
        self.text, self.negative = branches
        self.guidance = guidance
        self.image_latents = image_latents
        self.measures, self.relieve = measures, relieve

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """(B, C, t, h, w) float32 state -> its x_0 estimate, float32.

        Raises:
            MemoryShortageError: memory ran out with all measures taken.
            NumericsError: the network's prediction is not finite.
        """
        shown = network_input(x, self.kind, step.prediction_alpha, step.prediction_sigma)
        prediction, self.measures = with_relief(
            lambda measures: self._guided(shown, step, measures), self.measures, self.relieve, x.device, "sampling"
        )
        where = f"step {step.index + 1} of {step.total} (timestep {step.timestep:.4g})"
        check_result(prediction, f"the transformer's prediction at {where}", self.text.dtype)
        return to_x0(prediction, self.kind, x, step.prediction_alpha, step.prediction_sigma)

    def _guided(self, x: Tensor, step: Step, measures: Measures) -> Tensor:
        if self.negative is None:
            return self._predict(x, self.text, StepInfo(step.index, step.total, "conditional"), step.timestep)
        if measures.split_guidance:
            info = StepInfo(step.index, step.total, "unconditional")
            unconditional = self._predict(x, self.negative, info, step.timestep)
            info = StepInfo(step.index, step.total, "conditional")
            conditional = self._predict(x, self.text, info, step.timestep)
        else:
            both = torch.cat([self.negative, self.text])
            info = StepInfo(step.index, step.total, "joint")
            unconditional, conditional = self._predict(torch.cat([x, x]), both, info, step.timestep).chunk(2)
        return guide(unconditional, conditional, self.guidance(step))

    def _predict(self, latents: Tensor, text: Tensor, info: StepInfo, timestep: float) -> Tensor:
        """What the network says, float32. The rows of `latents` hold the state once for each branch in `text`."""
        dtype = text.dtype
        if self.image_latents is not None:
            image = self.image_latents.repeat(len(latents) // len(self.image_latents), 1, 1, 1, 1)
            latents = torch.cat([latents, image], dim=1)
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        ofs = None if self.transformer.ofs_embed is None else torch.full_like(timesteps, OFS, dtype=dtype)
        return self.transformer(latents.to(dtype), timesteps, text, ofs, step=info).float()
