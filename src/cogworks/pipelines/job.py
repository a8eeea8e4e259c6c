"""One request to one file: read what it names, generate, describe, write.

The command line, a list of jobs and a replay all come through here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cogworks.config.measures import Measures, Quantization
from cogworks.config.request import GenerationRequest
from cogworks.config.variants import BUNDLED, VARIANTS
from cogworks.config.video_recipe import VideoRecipe
from cogworks.errors import CogworksError, RequestError
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.load import load
from cogworks.pipelines.planning.shape import RunShape, request_shape
from cogworks.pipelines.progress import OnProgress, Progress, ignore
from cogworks.pipelines.provenance import hash_inputs, request_key
from cogworks.pipelines.recipes import make_recipe
from cogworks.pipelines.request import check_source
from cogworks.pipelines.resume import RunCheckpoint
from cogworks.video import Video, read_image, read_video, upscale_frames, write_video
from cogworks.video.folder import FramePattern
from cogworks.video.frames import MAX_UPSCALE
from cogworks.weights.fingerprint import weights_hash
from cogworks.weights.source import resolve

log = logging.getLogger(__name__)

_ELSEWHERE = ("image", "video", "model", "short_prompt", "seconds", "loras", "num_frames")

# When the state of sampling is kept. Without being asked it is kept once, when sampling is over: then neither a lack of
# memory in the decoder nor a full disk costs more than the decoding.
RESUMABLE = (5, 60.0)  # steps, seconds
LATENTS_ALONE = (sys.maxsize, math.inf)
LONG_SECONDS = 600.0
"""A run that is expected to take longer is resumable without being asked."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """With what a request is made. See `cogworks.load`."""

    device: str | None = None
    dtype: str | None = None
    memory: str | None = None
    measures: Measures | None = None
    tile: tuple[int, int] | None = None
    quantize: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How the result is written.

    Attributes:
        upscale: enlarge the frames of the file so many times.
        recipe: put the recipe into the file.
        resumable: keep the state of sampling beside the file.
        replace: replace what is there.
    """

    upscale: int = 1
    recipe: bool = True
    resumable: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.upscale <= MAX_UPSCALE:
            raise RequestError(f"upscale is a whole factor from 1 to {MAX_UPSCALE}, got {self.upscale}")


@dataclass(frozen=True)
class Prepared:
    """A request whose files were found and read, before anything heavy is loaded.

    Attributes:
        request: with its seed.
        key: names what is asked for (`request_key`).
        inputs: hashes of the input files, by field.
        weights: hash of the weights.
        enhance: the prompt is still to be rewritten.
    """

    request: GenerationRequest
    key: str
    inputs: dict[str, str]
    weights: str
    enhance: bool
    image: NDArray[np.uint8] | None
    video: Video | None


@dataclass(frozen=True)
class Made:
    """A result: the video as the model made it, what it was decoded from, its recipe, and the file.

    Attributes:
        latents: (1, C, t, h, w) float32.
    """

    video: Video
    latents: Tensor
    recipe: VideoRecipe
    path: Path
    seconds: float


@dataclass
class Workshop:
    """Makes one request after the other, and keeps the last model loaded in between."""

    means: Means = field(default_factory=Means)
    _model: str | None = None
    _pipeline: Pipeline | None = None

    def prepare(self, request: GenerationRequest, *, enhance: bool = False) -> Prepared:
        """Find all that a request names. A seed is drawn where it has none.

        Args:
            enhance: have the prompt rewritten into a long description when the video is made.

        Raises:
            CogworksError: a file or model that is missing or unreadable, or a source that the model cannot begin from.
        """
        image = None if request.image is None else read_image(request.image)
        video = None if request.video is None else read_video(request.video, max_frames=request.num_frames)
        if request.model in VARIANTS:
            check_source(VARIANTS[request.model], image, video)  # before gigabytes are fetched in vain
        if request.seed is None:
            request = request.model_copy(update={"seed": secrets.randbelow(2**31)})
        if enhance:
            from cogworks.config.settings import load_settings
            from cogworks.enhance.prompt import check_enhancer

            check_enhancer(load_settings().enhance)  # before anything is loaded
            if request.model in BUNDLED:
                log.warning("%s was trained on short captions: a long prompt tells it less", request.model)
            request = request.model_copy(update={"short_prompt": request.prompt})
        inputs = hash_inputs(request)
        weights = weights_hash(resolve(request.model))
        key = request_key(request, inputs, weights, self.means.quantize)
        return Prepared(request, key, inputs, weights, enhance, image, video)

    def pipeline(self, model: str) -> Pipeline:
        """The pipeline of a model; another one is dropped first."""
        if self._pipeline is None or self._model != model:
            self._pipeline = None
            means = self.means
            self._pipeline = load(
                model,
                dtype=means.dtype,
                device=means.device,
                measures=means.measures,
                memory=means.memory,
                tile=means.tile,
                quantize=means.quantize,
            )
            self._model = model
        return self._pipeline

    def make(
        self, prepared: Prepared, path: Path, delivery: Delivery | None = None, on_progress: OnProgress = ignore
    ) -> Made:
        """Generate and write the file, which appears when it is whole.

        Raises:
            CogworksError: what the request asks for cannot be made, or the file cannot be written. What was sampled by
                then stays beside the file, and the same request goes on from it.
        """
        started, delivery = time.monotonic(), delivery or Delivery()
        request = _enhanced(prepared.request) if prepared.enhance else prepared.request
        pipeline = self.pipeline(request.model)
        shape = _shape(pipeline, request, prepared.video)
        if not pipeline.prompts.needs_encoder(request.prompt, request.negative_prompt, guided=shape.guided):
            shape = replace(shape, num_prompts=0)
        expected = pipeline.plan(shape).seconds or 0.0
        keep = delivery.resumable or expected > LONG_SECONDS
        if keep and not delivery.resumable:
            log.info("this takes about %.0f minutes: the state of sampling is kept, to go on from", expected / 60)
        checkpoint = RunCheckpoint(
            state_file(path),
            request_key(
                request.model_copy(update={"short_prompt": None}),
                prepared.inputs,
                prepared.weights,
                self.means.quantize,
            ),
            *(RESUMABLE if keep else LATENTS_ALONE),
        )
        try:
            made, latents = _generate(pipeline, request, prepared, shape, checkpoint, on_progress)
            recipe = make_recipe(
                request,
                made,
                pipeline.components,
                pipeline.last_measures,
                prepared.inputs,
                prepared.weights,
                prepared.key,
            )
            on_progress(Progress("write", 0, 1))
            shown = replace(made, frames=upscale_frames(made.frames, delivery.upscale))
            write_video(path, shown, recipe.metadata() if delivery.recipe else None, replace=delivery.replace)
        except KeyboardInterrupt:
            if not keep:
                checkpoint.remove()
            raise
        except CogworksError:
            if checkpoint.path.exists():
                log.warning("what was sampled is in %s; the same request goes on from it", checkpoint.path)
            raise
        checkpoint.remove()
        on_progress(Progress("write", 1, 1))
        return Made(made, latents, recipe, path, time.monotonic() - started)

    def generate(self, prepared: Prepared, on_progress: OnProgress = ignore) -> tuple[Video, Tensor]:
        """The video of a request and the latents (1, C, t, h, w) it is decoded from. Nothing is written or kept.

        Raises:
            CogworksError: what the request asks for cannot be made.
        """
        pipeline = self.pipeline(prepared.request.model)
        shape = _shape(pipeline, prepared.request, prepared.video)
        return _generate(pipeline, prepared.request, prepared, shape, None, on_progress)

    def release(self) -> None:
        """Let the memory of the last model go. The next request loads it again."""
        self._pipeline = None


def state_file(path: Path) -> Path:
    """Where the state of the run is kept that makes the file `path`: beside it, or beside its folder of frames."""
    pattern = FramePattern.parse(path)
    beside = path if pattern is None else pattern.folder
    return beside.with_name(f".{beside.name}.resume")


def _shape(pipeline: Pipeline, request: GenerationRequest, video: Video | None) -> RunShape:
    frames, fps = (None, None) if video is None else (video.num_frames, video.fps)
    return request_shape(pipeline.variant, request, frames, fps)


def _generate(
    pipeline: Pipeline,
    request: GenerationRequest,
    prepared: Prepared,
    shape: RunShape,
    checkpoint: RunCheckpoint | None,
    on_progress: OnProgress,
) -> tuple[Video, Tensor]:
    values = {name: value for name, value in request if name not in _ELSEWHERE and value is not None}
    values["num_frames"] = shape.geometry.num_frames
    with pipeline.adapters.used(request.loras) if request.loras else contextlib.nullcontext():
        video = pipeline.generate(
            image=prepared.image, video=prepared.video, checkpoint=checkpoint, on_progress=on_progress, **values
        )
    assert isinstance(video, Video)  # one prompt, one video
    assert pipeline.last_latents is not None
    return video, pipeline.last_latents.cpu()


def _enhanced(request: GenerationRequest) -> GenerationRequest:
    from cogworks.config.settings import load_settings
    from cogworks.enhance.prompt import enhance_prompt

    takes_image = request.image is not None
    prompt = enhance_prompt(request.prompt, load_settings().enhance, image_to_video=takes_image)
    log.info("the prompt became: %s", prompt)
    return request.model_copy(update={"prompt": prompt})
