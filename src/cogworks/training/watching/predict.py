"""Videos of a prompt file by Lightning's `trainer.predict`: those that the pipeline makes, in one process or several.

    module = TransformerModule(recipe, build_model(recipe))
    trainer = L.Trainer(callbacks=[VideoFiles(folder)])
    predictions = trainer.predict(module, dataloaders=prompt_loader(Path("prompts.txt")))

With several processes Lightning gives each its share of the prompts, every prompt once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, Dataset

from cogworks.config.jobs import read_jobs
from cogworks.config.request import GenerationRequest
from cogworks.errors import RequestError
from cogworks.pipelines.planning.shape import request_shape
from cogworks.training.watching.live_pipeline import live_pipeline
from cogworks.video import Video, read_image, read_video

if TYPE_CHECKING:
    from cogworks.training.transformer.module import TransformerModule

MAX_NAME = 40  # characters of a prompt in the name of its file
# What a request says of things that are decided elsewhere.
_ELSEWHERE = ("image", "video", "model", "short_prompt", "seconds", "loras", "num_frames")


class Asked(NamedTuple):
    """A request, and its place in the file, from 0."""

    place: int
    request: GenerationRequest


class Prediction:
    """What came of a request. A plain class: Lightning would go through the fields of a tuple, and copy the video.

    Attributes:
        place: of the request in the file, from 0.
    """

    def __init__(self, place: int, request: GenerationRequest, video: Video) -> None:
        self.place = place
        self.request = request
        self.video = video


class _Requests(Dataset[Asked]):
    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, place: int) -> Asked:
        return Asked(place, self.requests[place])


def prompt_loader(path: Path) -> DataLoader[Asked]:
    """The requests of a prompt file, for `trainer.predict`.

    Args:
        path: .txt with a prompt a line, .jsonl or .csv, as `cogworks generate --batch` takes it. A line without a seed
            gets its number.

    Raises:
        RequestError: no such file, or a line that cannot be understood.
    """
    requests: list[GenerationRequest] = []
    for line in read_jobs(path, {}):
        if line.request is None:
            raise RequestError(line.error)
        if line.request.loras:
            raise RequestError(f"{path} line {line.number} names a LoRA, and the weights are those of the run")
        requests.append(line.request)
    return DataLoader(_Requests(requests), batch_size=None)


def predict(module: TransformerModule, asked: Asked) -> Prediction:
    """The video of one request by the networks of a module, bitwise that of `Pipeline.generate`.

    Raises:
        RequestError: the model cannot make it.
    """
    request = asked.request
    image = None if request.image is None else read_image(request.image)
    source = None if request.video is None else read_video(request.video, max_frames=request.num_frames)
    pipeline = live_pipeline(module)
    shape = request_shape(
        pipeline.variant,
        request,
        None if source is None else source.num_frames,
        None if source is None else source.fps,
    )
    values: dict[str, Any] = {name: value for name, value in request if name not in _ELSEWHERE and value is not None}
    with torch.autocast(module.device.type, enabled=False):
        video = pipeline.generate(image=image, video=source, num_frames=shape.geometry.num_frames, **values)
    assert isinstance(video, Video)  # one prompt, one video
    return Prediction(asked.place, request, video)


class VideoFiles(BasePredictionWriter):
    """Writes each prediction as it comes: `000-PROMPT.mp4`, numbered by its place in the prompt file."""

    def __init__(self, folder: Path, write_interval: Literal["batch"] = "batch") -> None:
        super().__init__(write_interval)
        self.folder = folder

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Prediction,
        batch_indices: Sequence[int] | None,
        batch: Asked,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{prediction.place:03d}-{name_of(prediction.request.prompt)}.mp4"
        prediction.video.save(self.folder / name, replace=True)


def name_of(prompt: str) -> str:
    """What of a prompt can stand in the name of a file."""
    return re.sub(r"\W+", "-", prompt.lower())[:MAX_NAME].strip("-") or "video"
