"""The closure that samplers call: guidance, conditioning and the network behind `denoise(x_t, step) -> x_0`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.diffusion.guidance import GuidanceSchedule, guide
from cogworks.diffusion.prediction import Kind, network_input, to_x0
from cogworks.diffusion.schedule import Step
from cogworks.models.transformer import ModulationTable, Transformer
from cogworks.nn.layout import StepInfo
from cogworks.nn.unchanged import Seen
from cogworks.pipelines.finite import check_result
from cogworks.pipelines.inference import inference
from cogworks.pipelines.memory import Relieve, with_relief
from cogworks.pipelines.prompts import Branches

OFS = 2.0  # the value that 1.5-I2V was always run with


class Prepared(NamedTuple):
    """What all steps have in common, and what it was computed from."""

    text_tokens: Tensor  # (B, M, D), or (2 B, M, D): first the unconditional rows
    table: ModulationTable  # a row for each step
    embeddings: tuple[Tensor, Tensor | None]
    weights: Seen


class Denoiser:
    """Guided x_0 estimates.

    Attributes:
        transformer: what predicts.
        kind: of its predictions.
        text, negative: (B, N, D) embeddings of the two guidance branches; `negative` is None without guidance.
        image_latents: (B, C, t, h, w), concatenated on channels in both branches, or None.
        steps: all that may be asked for. The same list gives the same numbers, wherever a run begins in it.
        measures: of the run; where memory runs out in a step it is done again with what `relieve` adds to them.
    """

    def __init__(
        self,
        transformer: Transformer,
        kind: Kind,
        branches: Branches,
        guidance: GuidanceSchedule,
        image_latents: Tensor | None,
        steps: Sequence[Step],
        measures: Measures,
        relieve: Relieve,
    ) -> None:
        self.transformer, self.kind = transformer, kind
        self.text, self.negative = branches
        self.guidance = guidance
        self.image_latents = image_latents
        self._timesteps = [step.timestep for step in steps]
        self._prepared: Prepared | None = None
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
        text_tokens, table, *_ = self.prepare()
        table = table.row(self._timesteps.index(step.timestep))
        if self.negative is None:
            return self._predict(x, text_tokens, table, StepInfo(step.index, step.total, "conditional"))
        if measures.split_guidance:
            negative_tokens, text_tokens = text_tokens.chunk(2)
            info = StepInfo(step.index, step.total, "unconditional")
            unconditional = self._predict(x, negative_tokens, table, info)
            info = StepInfo(step.index, step.total, "conditional")
            conditional = self._predict(x, text_tokens, table, info)
        else:
            info = StepInfo(step.index, step.total, "joint")
            unconditional, conditional = self._predict(x, text_tokens, table, info).chunk(2)
        return guide(unconditional, conditional, self.guidance(step))

    def prepare(self) -> Prepared:
        """What all steps have in common."""
        transformer, known = self.transformer, self._prepared
        if known is None:
            text = self.text if self.negative is None else torch.cat([self.negative, self.text])
            timesteps = torch.tensor(self._timesteps, device=text.device)
            ofs = None if transformer.ofs_embed is None else torch.full_like(timesteps, OFS, dtype=text.dtype)
            self._prepared = known = Prepared(
                transformer.patch_embed.text_proj(text),
                transformer.modulation_table(timesteps, ofs),
                (self.text, self.negative),
                Seen(transformer.preparing),
            )
        return known

    def look_again(self) -> None:
        """Somebody had the network and the embeddings in hand: what all steps have in common may be another now."""
        known = self._prepared
        if known is not None and not (
            known.embeddings[0] is self.text
            and known.embeddings[1] is self.negative
            and known.weights.unchanged(self.transformer.preparing)
        ):
            self._prepared = None

    def _predict(self, latents: Tensor, text_tokens: Tensor, table: ModulationTable, info: StepInfo) -> Tensor:
        """What the network says, float32, for each branch of which there are text tokens."""
        if self.image_latents is not None:
            latents = torch.cat([latents, self.image_latents], dim=1)
        with inference(latents):
            return self.transformer.predict(latents.to(self.text.dtype), text_tokens, table, step=info).float()
