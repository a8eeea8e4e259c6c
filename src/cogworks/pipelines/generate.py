"""A request in, a video out: encode the prompt, begin, sample, decode.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, T frames, H W pixels, h w latents.
Source of the order of operations: CogVideoX, arXiv:2408.06072; docs/parity.md#pipelines says where it differs from
diffusers.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cogworks.config.measures import Measures
from cogworks.config.variants import Variant
from cogworks.diffusion.edm import noise_schedule
from cogworks.diffusion.schedule import truncate
from cogworks.errors import RequestError
from cogworks.pipelines.after_step import AfterStep, StepCallback
from cogworks.pipelines.execution import Execution
from cogworks.pipelines.finite import check_given
from cogworks.pipelines.geometry import Geometry, geometry
from cogworks.pipelines.memory import SHARED_MEMORY, give_back_early
from cogworks.pipelines.noise import SeededNoise, choose_noise
from cogworks.pipelines.output import frames_of, join_pixels, join_videos, pixels_of
from cogworks.pipelines.planning.plan import SAFE_SHARE, Plan, free_memory, plan_run, total_memory, what_would_fit
from cogworks.pipelines.planning.shape import InMemory, RunShape, SourceKind, default_shape
from cogworks.pipelines.progress import OnProgress, Progress, ignore
from cogworks.pipelines.prompts import PromptEncoder
from cogworks.pipelines.recipes import IN_MEMORY, requests_of, with_recipes
from cogworks.pipelines.request import (
    OutputType,
    check_output,
    check_prompts,
    check_source,
    choose_guidance,
    choose_sampler,
    choose_steps,
)
from cogworks.pipelines.residence import Residence
from cogworks.pipelines.resume import Keeper, RunCheckpoint, RunState, check_resumable
from cogworks.pipelines.sources import source_frames
from cogworks.video import Video
from cogworks.video.frames import Fit
from cogworks.weights.load import Components
from cogworks.weights.save import save_pretrained

if TYPE_CHECKING:
    from PIL.Image import Image

    from cogworks.pipelines.adapters import Adapters

log = logging.getLogger(__name__)


class Pipeline:
    """One model, ready to generate.

    Args:
        components: the model.
        measures: what every run does to need less memory; None leaves it to a plan for each run.
        memory: bytes that a plan may use; None for what is free.
        tile: height and width of the tiles that a plan has the VAE work in; None for none.
        model: what was loaded, for recipes: a name, hub id or folder.

    Attributes:
        last_measures: those that the last run took.
        last_latents: (B, C, t, h, w) what the last run sampled, before decoding; None before the first.
    """

    def __init__(
        self,
        components: Components,
        *,
        measures: Measures | None = None,
        memory: int | None = None,
        tile: tuple[int, int] | None = None,
        model: str | None = None,
    ) -> None:
        self.components = components
        self.model = model or str(components.folder.path)
        self.measures = measures
        self.memory = memory
        self.tile = tile
        self.last_measures = measures or Measures()
        self.last_latents: Tensor | None = None
        self._plans: dict[tuple[RunShape, int | None, InMemory], Plan] = {}
        self.prompts = PromptEncoder(components)
        self.schedule = noise_schedule(components.variant.schedule)

    @property
    def variant(self) -> Variant:
        return self.components.variant

    @cached_property
    def adapters(self) -> Adapters:
        """The LoRAs of the transformer, which stays in memory once it may have some."""
        from cogworks.pipelines.adapters import Adapters

        return Adapters(self.components.transformer)

    @torch.no_grad()
    def generate(
        self,
        prompt: str | list[str] | None = None,
        *,
        negative_prompt: str | list[str] | None = None,
        image: np.ndarray | Image | None = None,
        video: Video | None = None,
        strength: float = 0.8,
        fit: Fit = "crop",
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        use_dynamic_cfg: bool | None = None,
        sampler: str | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | list[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: OutputType = "video",
        callback_on_step_end: StepCallback | None = None,
        checkpoint: RunCheckpoint | None = None,
        on_progress: OnProgress = ignore,
    ) -> Video | list[Video] | Tensor | np.ndarray:
        """Generate videos from a prompt, a prompt and an image, or a prompt and a video.

        What is not given comes from `variant.defaults`. Argument names are those of diffusers.

        Args:
            prompt: what to show; a list makes a list of videos.
            negative_prompt: what not to show; one for all prompts or one each.
            image: (H, W, 3) uint8, or a PIL image: the first frame, for image-to-video models.
            video: to begin from; `strength` in (0, 1] says how far the result may go from it.
            fit: how `image` or `video` comes to the size of the result where its aspect is another: "crop" cuts the
                sides, "pad" adds black ones, "stretch" distorts it, as diffusers does.
            height, width: pixels, multiples of 16.
            num_frames: 1, 8k or 8k + 1; without it a `video` gives as many of its frames as it can.
            fps: of the result; without it that of `video`, or the variant's.
            guidance_scale: 1 or less turns guidance off.
            use_dynamic_cfg: the published guidance that changes with the timestep.
            sampler: ddim, dpm, dpm_ode or ddpm.
            num_videos_per_prompt: videos of one prompt follow each other in the result.
            seed: one for all prompts or one each; video j of a prompt is keyed (seed, j), so that it comes out the
                same alone and in a batch.
            generator: instead of a seed: numbers in diffusers' order, shape and dtype, and so diffusers' video.
            latents: (B, t, C, h, w), diffusers' layout: the state to begin from.
            prompt_embeds, negative_prompt_embeds: (prompts, N, D) instead of prompts.
            output_type: "video"; "latent" (B, t, C, h, w); "pt" (B, T, 3, H, W) or "np" (B, T, H, W, 3) in [0, 1].
            callback_on_step_end: (pipeline, step index, timestep, tensors) -> tensors; may replace `latents`
                (B, t, C, h, w), `prompt_embeds` and `negative_prompt_embeds`.
            checkpoint: where to keep the state of the run, which a later run with this key goes on from to the same
                pixels; needs a `seed`. Its file stays, for the caller to remove.

        Returns:
            A `Video`, or a list of them where several were asked for; or what `output_type` says.

        Raises:
            RequestError: the request is not one that this model can serve.
            VideoError: `image` is no picture.
            NumericsError: a network gave numbers that are not finite; says which, and in which step.
            MemoryShortageError: memory ran out with all measures taken.
        """
        # Complete and check the request, before any network runs.
        defaults = self.variant.defaults
        check_output(output_type, fps)
        check_source(self.variant, image, video)
        check_resumable(checkpoint, seed=seed, generator=generator, callback_on_step_end=callback_on_step_end)
        num_prompts = check_prompts(self.variant, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        size = geometry(self.variant, height, width, num_frames, None if video is None else video.num_frames)
        source = source_frames(image, video, size, fit)
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        dynamic = defaults.dynamic_guidance if use_dynamic_cfg is None else use_dynamic_cfg
        guidance = choose_guidance(scale, dynamic=dynamic)
        walk = choose_sampler(defaults.sampler if sampler is None else sampler)
        steps = self.schedule.steps(
            choose_steps(defaults.steps if num_inference_steps is None else num_inference_steps)
        )
        if video is not None:
            steps = truncate(steps, strength)
        noise = choose_noise(seed, generator, num_prompts, num_videos_per_prompt, self.prompts.dtype)
        blank = self._blank_state(num_prompts * num_videos_per_prompt, size)
        given = None if latents is None else _given_state(latents, blank)
        told = prompt, negative_prompt, prompt_embeds, negative_prompt_embeds
        kind: SourceKind = "none" if source is None else "video" if image is None else "image"
        shape = RunShape(
            geometry=size,
            num_videos=len(blank),
            num_prompts=num_prompts if self.prompts.needs_encoder(*told, guided=scale > 1) else 0,
            guided=scale > 1,
            steps=len(steps),
            source=kind,
        )
        work = Execution(self.components, self.measures or self.plan(shape).measures, on_progress)
        run = None if checkpoint is None else checkpoint.read(blank, len(steps))

        # Encode the prompt, and what to begin from.
        if run is None:
            on_progress(Progress("encode", 0, 1))
            branches = self.prompts.branches(*told, guided=shape.guided, residence=work.residence)
            branches = branches.repeated(num_videos_per_prompt)
            run = RunState.beginning(branches, work.begin(source, given, blank, steps[0], noise))
            on_progress(Progress("encode", 1, 1))

        # Sample.
        after_step = AfterStep(self, callback_on_step_end, Keeper(checkpoint, run), on_progress)
        sampled = work.sample(walk, run, steps, guidance, noise, after_step)
        self.last_measures, self.last_latents = work.measures, sampled
        if output_type == "latent":
            return sampled.transpose(1, 2)

        # Decode, without the latent frames that only filled up a patch.
        kept = sampled[:, :, size.pad :]
        if output_type != "video":
            pixels = work.decode(kept, pixels_of)
            self.last_measures = work.measures
            return join_pixels(pixels, output_type)
        videos = join_videos(work.decode(kept, frames_of), fps or (defaults.fps if video is None else video.fps))
        self.last_measures = work.measures
        if isinstance(noise, SeededNoise) and prompt is not None and latents is None and callback_on_step_end is None:
            asked = {
                "model": self.model,
                "image": None if image is None else IN_MEMORY,
                "video": None if video is None else IN_MEMORY,
                "strength": None if video is None else strength,
                "fit": fit,
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "use_dynamic_cfg": use_dynamic_cfg,
                "sampler": sampler,
            }
            requests = requests_of(prompt, negative_prompt, noise.keys, num_videos_per_prompt, asked)
            videos = with_recipes(videos, requests, self.components, work.measures, source)
        return videos if isinstance(prompt, list) or len(videos) > 1 else videos[0]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as a diffusers folder, which diffusers and `cogworks.load` both read.

        Raises:
            WeightsError: `folder` is not empty, or the layout cannot hold this variant.
            RequestError: the weights are in 8 bits.
        """
        if self.components.packing is not None:
            raise RequestError(
                f"the weights of this pipeline are held as {self.components.packing.name}, which no model folder is: "
                "load it without quantize to save it"
            )
        networks = self.components.networks
        changed = networks.text_encoder.get() if networks.text_encoder.lent else None
        save_pretrained(
            folder,
            self.variant,
            transformer=networks.transformer.get(),
            vae=networks.vae.get(),
            text_encoder=changed or self.components.load_text_encoder(),
            tokenizer=self.components.tokenizer,
        )

    def load_networks(self, on_progress: OnProgress = ignore) -> None:
        """Read now what `generate` would read at its first use, as far as it stays in memory.

        The text encoder is left to the first prompt, and all is where networks are in memory one after the other: by
        the measures given, or by the plan of one video of the variant's own size.
        """
        if not (self.measures or self.plan(default_shape(self.variant)).measures).offload:
            residence = Residence(self.components, on_progress=on_progress)
            residence.bring(self.components.networks.transformer)
            residence.bring(self.components.networks.vae)

    def plan(self, shape: RunShape) -> Plan:
        """What a run of this shape takes, and how it fits, with the networks that are in memory by now.

        Raises:
            RequestError: the device has less memory in all than the run needs with every measure.
        """
        shape = replace(shape, quantize=self.components.quantize)
        asked = shape, self.memory, self._in_memory()
        if asked not in self._plans:
            self._plans[asked] = self._plan(*asked)
        return self._plans[asked]

    def _in_memory(self) -> InMemory:
        networks = self.components.networks._asdict()
        shared = self.components.device.type in SHARED_MEMORY
        return InMemory(
            loaded=frozenset(name for name, network in networks.items() if network.loaded),
            kept=frozenset(name for name, network in networks.items() if network.lent and shared),
            vae_in_file=self.components.networks.vae.form.in_file,
            warm=self.last_latents is not None,
        )

    def _plan(self, shape: RunShape, memory: int | None, in_memory: InMemory) -> Plan:
        components = self.components
        device, dtype, text_dtype = components.device, components.dtype, components.text_dtype
        # What is loaded already is part of the run, but for a text encoder that this one does not need.
        needed = components.networks if shape.num_prompts else components.networks[1:]
        held = sum(network.form.num_bytes for network in needed if network.loaded)
        budget = memory or int(free_memory(device) * SAFE_SHARE) + held
        plan = plan_run(
            self.variant,
            shape,
            device=device,
            dtype=dtype,
            text_dtype=text_dtype,
            budget=budget,
            measures=self.measures,
            tile=self.tile,
            in_memory=in_memory,
        )
        if device.type == "cpu":
            give_back_early()
        if not plan.fits:
            advice = what_would_fit(self.variant, plan, device=device, dtype=dtype, text_dtype=text_dtype)
            if plan.peak > total_memory(device):
                raise RequestError(advice)
            log.warning("%s. It is tried all the same, and may run out of memory", advice)
        return plan

    def _blank_state(self, batch: int, size: Geometry) -> Tensor:
        """Zeros (B, C, t, h, w), float32: the shape, dtype and device of the state."""
        shape = (batch, self.variant.vae.latent_channels, size.latent_frames, size.rows, size.columns)
        return torch.zeros(shape, dtype=torch.float32, device=self.components.device)


def _given_state(latents: Tensor, blank: Tensor) -> Tensor:
    """The caller's latents (B, t, C, h, w) as a state like `blank`. Raises RequestError if they do not fit."""
    expected = tuple(blank.transpose(1, 2).shape)
    if tuple(latents.shape) != expected:
        raise RequestError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
    check_given("latents", latents)
    return latents.transpose(1, 2).to(blank)
