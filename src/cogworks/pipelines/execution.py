"""The work of one run: each network in its turn, within the run's measures, which grow where memory runs out.

Letters: B videos, C latent channels, t latent frames, T frames, H W pixels, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.diffusion.guidance import GuidanceSchedule
from cogworks.diffusion.samplers import Sampler
from cogworks.diffusion.schedule import Step
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior
from cogworks.pipelines.after_step import AfterStep
from cogworks.pipelines.codec import decode, encode
from cogworks.pipelines.conditioning import Start, image_to_video, text_to_video, video_to_video
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.memory import in_halves, in_smaller_tiles, in_thinner_strips, one_by_one, with_relief
from cogworks.pipelines.noise import RunNoise
from cogworks.pipelines.progress import OnProgress, Progress
from cogworks.pipelines.residence import Residence
from cogworks.pipelines.resume import RunState
from cogworks.weights.lazy import LazyNetwork
from cogworks.weights.load import Components

P = TypeVar("P")
Relief = tuple[Measures, str] | None


class Execution:
    """Does the parts of one run.

    Attributes:
        measures: those that are in force.
        residence: where the networks are.
    """

    def __init__(self, components: Components, measures: Measures, on_progress: OnProgress) -> None:
        self.variant, self.networks, self.device = components.variant, components.networks, components.device
        self.residence = Residence(components, offload=measures.offload, on_progress=on_progress)
        self.on_progress = on_progress
        self._measures = measures

    @property
    def measures(self) -> Measures:
        return replace(self._measures, offload=self.residence.offload)

    def begin(
        self, source: NDArray[np.uint8] | None, given: Tensor | None, blank: Tensor, first: Step, noise: RunNoise
    ) -> Start:
        """The state at the level of the first step; what there is to begin from decides how.

        Args:
            source: (T, H, W, 3) frames of an image or video.
            given: (B, C, t, h, w) the caller's state.
            blank: (B, C, t, h, w) zeros, float32: what the state looks like.
        """
        if source is None or (given is not None and not self.variant.takes_image):
            return text_to_video(given, blank, noise)
        with self.residence.use(self.networks.vae) as vae:
            posterior = self._encode(vae, source)
            if self.variant.takes_image:
                return image_to_video(posterior, given, blank, noise, vae)
            return video_to_video(posterior, blank, first, noise, vae)

    def sample(
        self,
        walk: Sampler,
        run: RunState,
        steps: list[Step],
        guidance: GuidanceSchedule,
        noise: RunNoise,
        after_step: AfterStep,
    ) -> Tensor:
        """(B, C, t, h, w) clean latents, from where `run` stands. Nothing runs where all steps are done."""
        begins = Progress("steps", run.steps, len(steps))
        if run.steps == len(steps):
            self.on_progress(begins)
            return run.latents
        kind = self.variant.schedule.prediction
        relieve = partial(self._relieve_sampling, guided=run.branches.negative is not None)
        with self.residence.use(self.networks.transformer) as transformer:
            self.on_progress(begins)
            denoise = Denoiser(
                transformer, kind, run.branches, guidance, run.image_latents, steps, self._measures, relieve
            )
            sampled = walk(
                denoise,
                run.latents,
                steps[run.steps :],
                noise=noise,
                callback=partial(after_step, denoise),
                previous=run.previous(steps),
            )
            self._measures = denoise.measures
        return sampled

    def decode(self, latents: Tensor, convert: Callable[[Tensor], P]) -> list[list[P]]:
        """What `codec.decode` gives for latents (B, C, t, h, w)."""
        batch, rows, columns = len(latents), *latents.shape[3:]
        stride = self.variant.vae.spatial_stride

        def relieve(measures: Measures) -> Relief:
            return (
                one_by_one(measures, batch)
                or self._offloaded(measures, self.networks.vae)
                or in_thinner_strips(measures, rows * stride)
                or in_smaller_tiles(measures, rows * stride, columns * stride)
            )

        with self.residence.use(self.networks.vae) as vae:
            decoded, self._measures = with_relief(
                lambda measures: decode(vae, latents, measures, convert, self.on_progress),
                self._measures,
                relieve,
                self.device,
                "decoding",
            )
        return decoded

    def _encode(self, vae: VAE, source: NDArray[np.uint8]) -> Posterior:
        height, width = source.shape[1:3]

        def relieve(measures: Measures) -> Relief:
            return (
                self._offloaded(measures, self.networks.vae)
                or in_thinner_strips(measures, height)
                or in_smaller_tiles(measures, height, width)
            )

        posterior, self._measures = with_relief(
            lambda measures: encode(vae, source, measures), self._measures, relieve, self.device, "encoding"
        )
        return posterior

    def _relieve_sampling(self, measures: Measures, *, guided: bool) -> Relief:
        halves = in_halves(measures) if guided else None
        return halves or self._offloaded(measures, self.networks.transformer)

    def _offloaded(self, measures: Measures, part: LazyNetwork) -> Relief:
        if not self.residence.relieve(part):
            return None
        return replace(measures, offload=True), "with the other networks put aside"
