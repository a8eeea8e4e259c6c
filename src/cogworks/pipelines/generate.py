"""A request in, a video out: encode the prompt, begin, sample, decode.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, T frames, H W pixels, h w latents.
Source of the order of operations: CogVideoX, arXiv:2408.06072; docs/parity.md#pipelines says where it differs from
diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cogworks.config.variants import Variant
from cogworks.diffusion.samplers import Callback
from cogworks.diffusion.schedule import NoiseSchedule, Step, truncate
from cogworks.errors import RequestError
from cogworks.pipelines.conditioning import Start, image_to_video, text_to_video, video_to_video
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.geometry import Geometry, geometry
from cogworks.pipelines.noise import RunNoise, choose_noise
from cogworks.pipelines.output import collect_pixels, collect_videos
from cogworks.pipelines.progress import OnProgress, Progress, ignore
from cogworks.pipelines.prompts import PromptEncoder
from cogworks.pipelines.request import (
    OutputType,
    check_output,
    check_prompts,
    check_source,
    choose_guidance,
    choose_sampler,
)
from cogworks.video import Video, resize_frames, to_pixels
from cogworks.weights.load import Components
from cogworks.weights.save import save_pretrained

if TYPE_CHECKING:
    from PIL.Image import Image

StepCallback = Callable[["Pipeline", int, int, dict[str, Tensor]], dict[str, Tensor] | None]


class Pipeline:
    """One model, ready to generate."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self.prompts = PromptEncoder(components)
        self.schedule = NoiseSchedule(components.variant.schedule)

    @property
    def variant(self) -> Variant:
        return self.components.variant

    @torch.no_grad()
    def generate(
        self,
        prompt: str | list[str] | None = None,
        *,
        negative_prompt: str | list[str] | None = None,
        image: np.ndarray | Image | None = None,
        video: Video | None = None,
        strength: float = 0.8,
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
        on_progress: OnProgress = ignore,
    ) -> Video | list[Video] | Tensor | np.ndarray:
        """Generate videos from a prompt, a prompt and an image, or a prompt and a video.

        What is not given comes from `variant.defaults`. Argument names are those of diffusers.

        Args:
            prompt: what to show; a list makes a list of videos.
            negative_prompt: what not to show; one for all prompts or one each.
            image: (H, W, 3) uint8, or a PIL image: the first frame, for image-to-video models. Resized to fit.
            video: to begin from, resized to fit; `strength` in (0, 1] says how far the result may go from it.
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

        Returns:
            A `Video`, or a list of them where several were asked for; or what `output_type` says.

        Raises:
            RequestError: the request is not one that this model can serve.
            VideoError: `image` is no picture.
        """
        # Complete and check the request, before any network runs.
        defaults = self.variant.defaults
        check_output(output_type, fps)
        check_source(self.variant, image, video)
        num_prompts = check_prompts(self.variant, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        size = geometry(self.variant, height, width, num_frames, None if video is None else video.num_frames)
        source = _source_pixels(image, video, size)
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        dynamic = defaults.dynamic_guidance if use_dynamic_cfg is None else use_dynamic_cfg
        guidance = choose_guidance(scale, dynamic=dynamic)
        walk = choose_sampler(defaults.sampler if sampler is None else sampler)
        steps = self.schedule.steps(defaults.steps if num_inference_steps is None else num_inference_steps)
        if video is not None:
            steps = truncate(steps, strength)
        noise = choose_noise(seed, generator, num_prompts, num_videos_per_prompt, self.prompts.dtype)
        blank = self._blank_state(num_prompts * num_videos_per_prompt, size)
        given = None if latents is None else _given_state(latents, blank)

        # Encode the prompt, and what to begin from.
        on_progress(Progress("encode", 0, 1))
        branches = self.prompts.branches(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guided=scale > 1
        ).repeated(num_videos_per_prompt)
        start = self._begin(source, given, blank, steps[0], noise)
        on_progress(Progress("encode", 1, 1))

        # Sample.
        on_progress(Progress("steps", 0, len(steps)))
        denoise = Denoiser(self.components, branches, guidance, start.image_latents)
        after_step = self._after_step(denoise, callback_on_step_end, on_progress)
        sampled = walk(denoise, start.latents, steps, noise=noise, callback=after_step)
        if output_type == "latent":
            return sampled.transpose(1, 2)

        # Decode, without the latent frames that only filled up a patch.
        chunks = self._decode(sampled[:, :, size.pad :], on_progress)
        if output_type != "video":
            return collect_pixels(chunks, output_type)
        videos = collect_videos(chunks, fps or (defaults.fps if video is None else video.fps))
        return videos if isinstance(prompt, list) or len(videos) > 1 else videos[0]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as a diffusers folder, which diffusers and `cogworks.load` both read.

        Raises:
            WeightsError: `folder` is not empty, or the layout cannot hold this variant.
        """
        save_pretrained(
            folder,
            self.variant,
            transformer=self.components.transformer,
            vae=self.components.vae,
            text_encoder=self.components.load_text_encoder(),
            tokenizer=self.components.tokenizer,
        )

    def _blank_state(self, batch: int, size: Geometry) -> Tensor:
        """Zeros (B, C, t, h, w), float32: the shape, dtype and device of the state."""
        shape = (batch, self.variant.vae.latent_channels, size.latent_frames, size.rows, size.columns)
        return torch.zeros(shape, dtype=torch.float32, device=self.components.device)

    def _begin(self, source: Tensor | None, given: Tensor | None, blank: Tensor, first: Step, noise: RunNoise) -> Start:
        """The state at the level of the first step; what there is to begin from decides how."""
        vae = self.components.vae
        if source is None:
            return text_to_video(given, blank, noise)
        if self.variant.takes_image:
            return image_to_video(source, given, blank, noise, vae)
        return video_to_video(source, given, blank, first, noise, vae)

    def _after_step(
        self, denoise: Denoiser, callback_on_step_end: StepCallback | None, on_progress: OnProgress
    ) -> Callback:
        """What the sampler calls after a step: tells progress, lets the caller look and replace tensors."""

        def after_step(step: Step, state: Tensor, x0: Tensor) -> Tensor | None:
            on_progress(Progress("steps", step.index + 1, step.total))
            if callback_on_step_end is None:
                return None
            tensors = {"latents": state.transpose(1, 2), "prompt_embeds": denoise.text}
            if denoise.negative is not None:
                tensors["negative_prompt_embeds"] = denoise.negative
            returned = callback_on_step_end(self, step.index, step.timestep, dict(tensors)) or {}
            for name, tensor in returned.items():
                if name not in tensors or tensor.shape != tensors[name].shape:
                    raise RequestError(
                        f"callback_on_step_end returned {name} of shape {tuple(tensor.shape)}; it may replace "
                        + ", ".join(f"{known} {tuple(t.shape)}" for known, t in tensors.items())
                    )
            denoise.text = returned.get("prompt_embeds", denoise.text).to(denoise.text)
            if denoise.negative is not None:
                denoise.negative = returned.get("negative_prompt_embeds", denoise.negative).to(denoise.negative)
            return returned["latents"].transpose(1, 2).to(state) if "latents" in returned else None

        return after_step

    def _decode(self, latents: Tensor, on_progress: OnProgress) -> Iterator[Tensor]:
        """Pieces (B, 3, T, H, W) of the clip, as they are decoded."""
        vae = self.components.vae
        done, total = 0, latents.shape[2]
        on_progress(Progress("decode", done, total))
        for chunk in vae.decode_stream(vae.from_diffusion(latents).to(next(vae.parameters()))):
            done += -(-chunk.shape[2] // self.variant.vae.temporal_stride)
            on_progress(Progress("decode", done, total))
            yield chunk


def _source_pixels(image: np.ndarray | Image | None, video: Video | None, size: Geometry) -> Tensor | None:
    """Pixels (1, 3, T, H, W) of the image or video that a run begins from."""
    if image is not None:
        picture = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
        frames = picture[None]
    elif video is not None:
        frames = video.frames[: size.num_frames]
    else:
        return None
    return to_pixels(resize_frames(frames, size.height, size.width))


def _given_state(latents: Tensor, blank: Tensor) -> Tensor:
    """The caller's latents (B, t, C, h, w) as a state like `blank`. Raises RequestError if they do not fit."""
    expected = tuple(blank.transpose(1, 2).shape)
    if tuple(latents.shape) != expected:
        raise RequestError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
    return latents.transpose(1, 2).to(blank)
