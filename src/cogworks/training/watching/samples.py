"""Videos that a run makes on its way, with its weights as they are, and what they show.

Nothing of the run changes by them, not by a bit.

Letters: B batch, T frames, H W pixels, C latent channels, t h w latents.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from cogworks.config.jobs import read_jobs
from cogworks.config.training import Run, SampleOptions
from cogworks.config.training_data import Bucket
from cogworks.data.captions import parse_caption
from cogworks.errors import RecipeError
from cogworks.evaluation.reports.report import GroupReport
from cogworks.evaluation.shapes.suite import ONE_OBJECT, caption_cases, judge
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.geometry import geometry
from cogworks.training.clips.batches import Batch
from cogworks.training.transformer.module import TransformerModule
from cogworks.training.watching.live_pipeline import averaged_weights, live_pipeline, undisturbed
from cogworks.training.watching.predict import name_of
from cogworks.video import Video, read_image, to_frames
from cogworks.video.frames import resize_frames
from cogworks.video.sinks import save_animation

log = logging.getLogger(__name__)

FOLDER = "samples"
BOARD_SIDE = 256  # pixels of the longer side of a video in TensorBoard

Frames = NDArray[np.uint8]


@runtime_checkable
class JudgesSamples(Protocol):
    """A callback that looks at sample videos too."""

    def check_samples(self, frames: Sequence[Frames]) -> None:
        """Given every video (T, H, W, 3) of a round, in all processes alike; raises where the run has gone wrong."""


class SampleVideos(Callback):
    """Makes the videos of `options` every so many steps: files, a video in TensorBoard, and what the oracle reads.

    With several processes each makes its share, and all have all of them in the end.

    Raises:
        RecipeError: when a run begins, where the options and the model do not fit.
    """

    def __init__(self, recipe: Run, options: SampleOptions) -> None:
        self.recipe = recipe
        self.options = options
        self.prompts = read_prompts(options.prompts)
        self._image = None if options.image is None else read_image(options.image)
        self._seen = -1
        self._pipeline: Pipeline | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        variant = _transformer(pl_module).model.variant
        if variant.takes_image and self._image is None:
            raise RecipeError(
                "samples of an image-to-video model need a picture to begin with: name it as samples.image"
            )
        if not variant.takes_image and self._image is not None:
            raise RecipeError(f"samples.image is for image-to-video models; {variant.name} takes none")
        frames, height, width = self._size()
        geometry(variant, height, width, frames)  # a size that it cannot make is found now

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._seen or step % self.options.every_steps:
            return
        self._seen = step
        module = _transformer(pl_module)
        log.info("making %d sample videos", len(self.prompts))
        with undisturbed(module), averaged_weights(trainer, module), trainer.precision_plugin.forward_context():
            videos = self._make(trainer, module)
        if trainer.is_global_zero:
            self._keep(trainer, videos, step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, JudgesSamples):
                callback.check_samples(videos)

    def _make(self, trainer: L.Trainer, module: TransformerModule) -> list[Frames]:
        """The video (T, H, W, 3) of every prompt."""
        if self._pipeline is None or module.recipe.train_text_encoder:  # which remembers what it read
            self._pipeline = live_pipeline(module)
        rank, world, count = trainer.global_rank, trainer.world_size, len(self.prompts)
        share = [index % count for index in range(rank, -(-count // world) * world, world)]
        mine = torch.from_numpy(np.stack([self._generate(self._pipeline, module, index) for index in share]))
        self._pipeline.components.networks.text_encoder.drop()  # it stays only where it is trained
        gathered = module.all_gather(mine.to(module.device))
        assert isinstance(gathered, Tensor)
        if world > 1:
            gathered = gathered.transpose(0, 1).flatten(0, 1)  # (rounds, processes, ...) in the order of the prompts
        return list(gathered[:count].cpu().numpy())

    def _generate(self, pipeline: Pipeline, module: TransformerModule, index: int) -> Frames:
        """(T, H, W, 3) of prompt number `index`."""
        frames, height, width = self._size()
        codec = module.model.codec if module.model.vae is None else None
        made = pipeline.generate(
            self.prompts[index],
            image=self._image,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=self.options.steps,
            seed=self.options.seed + index,
            output_type="video" if codec is None else "latent",
        )
        if codec is None:
            assert isinstance(made, Video)  # one prompt, one video
            return made.frames
        assert isinstance(made, Tensor)  # (B, t, C, h, w)
        return to_frames(codec.decode(made.transpose(1, 2))[:, :, :frames])

    def _keep(self, trainer: L.Trainer, videos: list[Frames], step: int) -> None:
        fps = self.recipe.data.fps or 8.0
        folder = self.recipe.output / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for index, (prompt, frames) in enumerate(zip(self.prompts, videos, strict=True)):
            name = f"{index:02d}-{name_of(prompt)}"
            Video(frames, fps).save(folder / f"step{step:06d}-{name}.mp4", replace=True)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    show_video(logger, f"samples/{name}", frames, fps, step)
        figures = sample_figures(self.prompts, videos)
        for logger in trainer.loggers:
            if figures:
                logger.log_metrics(figures, step)

    def _size(self) -> Bucket:
        """What the run learns, and samples show."""
        data = self.recipe.data
        return Bucket(data.frames, data.size, data.size) if data.kind == "shapes" else data.sizes[0]


def read_prompts(prompts: tuple[str, ...] | Path) -> list[str]:
    """The prompts themselves, or those of a list of jobs (a prompt a line). Raises RecipeError if there is none."""
    found = list(prompts) if isinstance(prompts, tuple) else []
    if isinstance(prompts, Path):
        for line in read_jobs(prompts, {}):
            if line.request is None:
                raise RecipeError(f"samples.prompts: {line.error}")
            found.append(line.request.prompt)
    if not found or not all(prompt.strip() for prompt in found):
        raise RecipeError("samples.prompts holds no prompt, or an empty one")
    return found


def sample_figures(prompts: Sequence[str], videos: Sequence[Frames]) -> dict[str, float]:
    """Shares of the videos that show what was asked, by attribute and in all; of prompts of the Shapes world alone.

    Args:
        videos: (T, H, W, 3) of each prompt.

    Returns:
        `samples/shape`, ..., `samples/all_four` in [0, 1]; empty where no prompt is a caption of one object.
    """
    readable = [index for index, prompt in enumerate(prompts) if _names_one_object(prompt)]
    if not readable:
        return {}
    cases = caption_cases([prompts[index] for index in readable], ONE_OBJECT)
    outcomes = [judge(case, videos[index]) for case, index in zip(cases, readable, strict=True)]
    shares = GroupReport.of(outcomes).shares
    return {f"samples/{name.replace(' ', '_')}": share.value for name, share in shares.items()}


def show_video(logger: TensorBoardLogger, name: str, frames: Frames, fps: float, step: int) -> None:
    """Put a video into TensorBoard, as an animated picture: its own `add_video` needs another library.

    Args:
        frames: (T, H, W, 3).
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = frames.shape[1:3]
    shrink = min(1.0, BOARD_SIDE / max(height, width))
    small = resize_frames(frames, max(1, round(height * shrink)), max(1, round(width * shrink)), "stretch")
    content = io.BytesIO()
    save_animation(content, small, fps, ".gif")
    picture = Summary.Image(
        height=small.shape[1], width=small.shape[2], colorspace=3, encoded_image_string=content.getvalue()
    )
    writer = logger.experiment._get_file_writer()
    writer.add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), step)


def _names_one_object(prompt: str) -> bool:
    try:
        return len(parse_caption(prompt).objects) == 1
    except ValueError:
        return False


def _transformer(module: L.LightningModule) -> TransformerModule:
    assert isinstance(module, TransformerModule)  # a recipe of another kind has no samples
    return module
