"""A request in, a video out: encode the prompt, begin, sample, decode.

Letters: B videos, N text tokens, D text width, C latent channels, t latent frames, T frames, H W pixels, h w latents.
Source of the order of operations: CogVideoX, arXiv:2408.06072; docs/parity.md says where it differs from diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from cogworks.config.variants import Variant
from cogworks.diffusion.guidance import constant_guidance, timestep_cosine_guidance
from cogworks.diffusion.samplers import SAMPLERS
from cogworks.diffusion.schedule import NoiseSchedule, Step
from cogworks.errors import RequestError
from cogworks.pipelines.conditioning import Start, image_to_video, text_to_video, video_to_video
from cogworks.pipelines.denoiser import Denoiser
from cogworks.pipelines.noise import GeneratorNoise, SeededNoise
from cogworks.pipelines.progress import OnProgress, Progress, ignore
from cogworks.pipelines.prompts import PromptEncoder
from cogworks.pipelines.request import Geometry, check_guidance, check_prompts, geometry, largest_legal_frames
from cogworks.video import Video, resize_frames, to_frames, to_pixels
from cogworks.weights.load import Components

if TYPE_CHECKING:
    from PIL.Image import Image

OutputType = Literal["video", "latent", "pt", "np"]
StepCallback = Callable[["Pipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]


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
            image: (H, W, 3) uint8, or a PIL image: the first frame, for image-to-video models.
            video: to begin from; `strength` in (0, 1] says how far the result may go from it.
            height, width: pixels; num_frames: 1, 8k or 8k + 1.
            guidance_scale: 1 or less turns guidance off.
            use_dynamic_cfg: the published guidance that changes with the timestep.
            sampler: ddim, dpm, dpm_ode or ddpm.
            seed: one for all prompts or one each; video j of a prompt is keyed (seed, j), so that it comes out the
                same alone and in a batch.
            generator: instead of a seed: numbers in diffusers' order, shape and dtype, and so diffusers' video.
            latents: (B, t, C, h, w), diffusers' layout: the state to begin from.
            prompt_embeds, negative_prompt_embeds: (B, N, D) instead of prompts.
            output_type: "video"; "latent" (B, t, C, h, w); "pt" (B, T, 3, H, W) or "np" (B, T, H, W, 3) in [0, 1].
            callback_on_step_end: (pipeline, step index, timestep, tensors) -> tensors; may replace `latents`
                (B, t, C, h, w), `prompt_embeds` and `negative_prompt_embeds`.

        Returns:
            A `Video`, or a list of them where several were asked for; or what `output_type` says.

        Raises:
            RequestError: the request is not one this model can serve.
        """
        defaults = self.variant.defaults
        check_prompts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        check_guidance(guidance_scale)
        walk = _choose_sampler(sampler or defaults.sampler)
        pixels, source_frames = self._source(image, video, height, width, num_frames)
        shape = geometry(
            self.variant,
            height or defaults.height,
            width or defaults.width,
            source_frames or num_frames or defaults.num_frames,
        )

        on_progress(Progress("encode", 0, 1))
        text, negative = self._encode(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guidance_scale > 1)
        if num_videos_per_prompt < 1:
            raise RequestError(f"num_videos_per_prompt must be at least 1, got {num_videos_per_prompt}")
        noise = self._noise(seed, generator, len(text), num_videos_per_prompt, text.dtype)
        text, negative = (e if e is None else e.repeat_interleave(num_videos_per_prompt, 0) for e in (text, negative))
        on_progress(Progress("encode", 1, 1))

        steps = self.schedule.steps(num_inference_steps or defaults.steps)
        start = self._start(pixels, image is not None, strength, latents, len(text), shape, steps, noise)
        dynamic = defaults.dynamic_guidance if use_dynamic_cfg is None else use_dynamic_cfg
        guidance = (timestep_cosine_guidance if dynamic else constant_guidance)(guidance_scale)
        denoise = Denoiser(self.components, text, negative, guidance, start.image_latents)
        sampled = walk(
            denoise,
            start.latents,
            start.steps,
            noise=noise,
            callback=self._callback(denoise, callback_on_step_end, on_progress),
        )
        if output_type == "latent":
            return sampled.transpose(1, 2)
        chunks = self._decode(sampled[:, :, shape.pad :], on_progress)
        return _collect(chunks, output_type, fps or (video.fps if video else defaults.fps), single=_is_single(prompt, sampled))

    def _source(
        self,
        image: np.ndarray | Image | None,
        video: Video | None,
        height: int | None,
        width: int | None,
        num_frames: int | None,
    ) -> tuple[Tensor | None, int | None]:
        """Pixels (1, 3, T, H, W) of what the run begins from, and the frame count that a video imposes."""
        if image is not None and video is not None:
            raise RequestError("give an image or a video, not both")
        if self.variant.takes_image and image is None:
            raise RequestError(f"{self.variant.name} is an image-to-video model: it needs an image")
        size = height or self.variant.defaults.height, width or self.variant.defaults.width
        if image is not None:
            if not self.variant.takes_image:
                known = "; cogvideox-5b-i2v and cogvideox1.5-5b-i2v can"
                raise RequestError(f"{self.variant.name} is a text-to-video model and cannot begin from an image{known}")
            return to_pixels(resize_frames(np.asarray(image)[None], *size)), None
        if video is not None:
            available = len(video.frames) if num_frames is None else min(num_frames, len(video.frames))
            kept = largest_legal_frames(available, self.variant.vae.temporal_stride)
            return to_pixels(resize_frames(video.frames[:kept], *size)), kept
        return None, None

    def _encode(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        guided: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Conditional and unconditional text embeddings, each (B, N, D); the latter None without guidance."""
        device, dtype = self.components.device, self.prompts.dtype
        if prompt_embeds is None:
            assert prompt is not None
            text = self.prompts.encode([prompt] if isinstance(prompt, str) else prompt)
        else:
            text = prompt_embeds.to(device, dtype)
        if not guided:
            return text, None
        if negative_prompt_embeds is not None:
            return text, negative_prompt_embeds.to(device, dtype)
        if negative_prompt is None:
            return text, self.prompts.unconditional().expand_as(text)
        negatives = [negative_prompt] * len(text) if isinstance(negative_prompt, str) else negative_prompt
        return text, self.prompts.encode(negatives)

    def _noise(
        self,
        seed: int | list[int] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        num_prompts: int,
        num_videos: int,
        dtype: torch.dtype,
    ) -> SeededNoise | GeneratorNoise:
        if generator is not None:
            if seed is not None:
                raise RequestError("give a seed or a generator, not both")
            return GeneratorNoise(generator, dtype)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        seeds = [seed] * num_prompts if isinstance(seed, int) else seed
        if len(seeds) != num_prompts:
            raise RequestError(f"got {len(seeds)} seeds for {num_prompts} prompts; give one, or one for each")
        return SeededNoise([(s, j) for s in seeds for j in range(num_videos)])

    def _start(
        self,
        pixels: Tensor | None,
        is_image: bool,
        strength: float,
        latents: Tensor | None,
        batch: int,
        shape: Geometry,
        steps: list[Step],
        noise: SeededNoise | GeneratorNoise,
    ) -> Start:
        device, vae = self.components.device, self.components.vae
        empty = torch.empty(shape.latent_shape(batch, self.variant.vae.latent_channels), device=device)
        if latents is not None:
            latents = latents.transpose(1, 2).to(device, torch.float32)
            if latents.shape != empty.shape:
                want = tuple(empty.transpose(1, 2).shape)
                raise RequestError(f"latents must have shape {want}, got {tuple(latents.transpose(1, 2).shape)}")
        if pixels is None:
            return text_to_video(latents, empty, steps, noise)
        pixels = pixels.expand(batch, -1, -1, -1, -1).to(device, next(vae.parameters()).dtype)
        if is_image:
            return image_to_video(pixels, latents, empty, steps, noise, vae)
        if shape.pad:
            raise RequestError(
                f"{self.variant.name} works on pairs of latent frames and cannot begin from {shape.num_frames} frames; "
                f"give {shape.num_frames - 1 if shape.num_frames % 8 == 1 else shape.num_frames} or another multiple of 8"
            )
        return video_to_video(pixels, strength, latents, steps, noise, vae)

    def _callback(
        self, denoise: Denoiser, callback_on_step_end: StepCallback | None, on_progress: OnProgress
    ) -> Callable[[Step, Tensor, Tensor], Tensor | None]:
        def after_step(step: Step, state: Tensor, x0: Tensor) -> Tensor | None:  # noqa: ARG001
            on_progress(Progress("steps", step.index + 1, step.total))
            if callback_on_step_end is None:
                return None
            tensors = {"latents": state.transpose(1, 2), "prompt_embeds": denoise.text}
            if denoise.negative is not None:
                tensors["negative_prompt_embeds"] = denoise.negative
            returned = callback_on_step_end(self, step.index, step.timestep, tensors) or {}
            denoise.text = returned.get("prompt_embeds", denoise.text)
            denoise.negative = returned.get("negative_prompt_embeds", denoise.negative)
            return returned["latents"].transpose(1, 2).to(state) if "latents" in returned else None

        return after_step

    def _decode(self, latents: Tensor, on_progress: OnProgress) -> Iterator[Tensor]:
        """Pieces (B, 3, T, H, W) of the clip, as they are decoded."""
        vae = self.components.vae
        total = latents.shape[2]
        done = 0
        latents = vae.from_diffusion(latents).to(next(vae.parameters()).dtype)
        for chunk in vae.decode_stream(latents):
            done += max(1, chunk.shape[2] // self.variant.vae.temporal_stride)
            on_progress(Progress("decode", min(done, total), total))
            yield chunk


def _choose_sampler(name: str) -> Any:
    key = name.replace("-", "_")
    if key not in SAMPLERS:
        raise RequestError(f"no sampler named {name!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[key]


def _is_single(prompt: str | list[str] | None, sampled: Tensor) -> bool:
    return not isinstance(prompt, list) and len(sampled) == 1


def _collect(chunks: Iterator[Tensor], output_type: OutputType, fps: float, *, single: bool) -> Any:
    """Gather decoded pieces: as uint8 at once, so that a long video is never held in float."""
    if output_type == "video":
        pieces = [np.stack([to_frames(clip[None]) for clip in chunk]) for chunk in chunks]
        videos = [Video(frames, fps) for frames in np.concatenate(pieces, axis=1)]
        return videos[0] if single else videos
    pixels = torch.cat([chunk.float().cpu() for chunk in chunks], dim=2).div(2).add(0.5).clamp(0, 1)
    if output_type == "pt":
        return pixels.transpose(1, 2)
    if output_type == "np":
        return pixels.permute(0, 2, 3, 4, 1).numpy()
    raise RequestError(f"output_type must be video, latent, pt or np, got {output_type!r}")
