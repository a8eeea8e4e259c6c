"""CLIP score: how near the frames of a video are to its prompt, by a CLIP model in a folder on this machine.

Source: CLIPScore, arXiv:2104.08718, without its factor and its cut at zero, as evaluations of text to video use it:
100 times the cosine between the embeddings of a frame and of the prompt, averaged over the frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cogworks.errors import RequestError, WeightsError
from cogworks.evaluation.case import Case, Frames, Outcome, Suite
from cogworks.video.frames import check_frames
from cogworks.weights.storage import read_json

CLIP_SCORE = "CLIP score"
FRAMES_AT_ONCE = 16
_INSTALL = "the CLIP score needs transformers: pip install 'cogworks[eval]'"
_ENDINGS = (".safetensors", ".bin", ".json", ".txt")  # weights, configuration, vocabulary


class ClipScorer:
    """A CLIP model, read from a folder as transformers writes it. Nothing is ever fetched.

    Args:
        folder: holds config.json, weights, tokenizer files and preprocessor_config.json.
        device: where it computes.

    Raises:
        RequestError: transformers is not installed, or the folder holds no CLIP model that it can read.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        kind = _kind(folder)
        if kind != "clip":
            raise RequestError(f"{folder} holds no CLIP model: its config.json says {kind!r}")
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError:
            raise RequestError(_INSTALL) from None
        with _reading(folder):
            loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        model, notes = loaded
        if notes["missing_keys"]:
            raise RequestError(f"{folder} holds no CLIP model: {min(notes['missing_keys'])} is not in its weights")
        self._model = model.eval().float().to(device)
        self._device = device
        self._max_tokens = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def score(self, frames: Frames, prompt: str) -> float:
        """100 times the mean cosine of the frames (T, H, W, 3) with the prompt, in -100..100.

        CLIP reads the first 77 tokens of a prompt, some 50 words.

        Raises:
            VideoError: `frames` is not (T, H, W, 3) uint8.
        """
        check_frames(frames)
        text = self._processor.tokenizer(prompt, truncation=True, max_length=self._max_tokens, return_tensors="pt").to(
            self._device
        )
        cosines = []
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            images = list(frames[start : start + FRAMES_AT_ONCE])
            pixels = self._processor.image_processor(images, input_data_format="channels_last", return_tensors="pt")
            both = self._model(
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
                pixel_values=pixels["pixel_values"].to(self._device),
            )
            cosines.append(both.image_embeds @ both.text_embeds[0])  # both have length 1
        return 100 * float(torch.cat(cosines).double().mean())


def with_clip_score(suite: Suite, folder: Path, device: torch.device | str = "cpu") -> Suite:
    """The suite, with the measure "CLIP score" beside what its judge says.

    Args:
        folder: of the CLIP model; its content is part of the suite's fingerprint.

    Raises:
        RequestError: as `ClipScorer`.
    """
    scorer = ClipScorer(folder, device)

    def judge(case: Case, frames: Frames) -> Outcome:
        outcome = suite.judge(case, frames)
        return replace(outcome, measures={**outcome.measures, CLIP_SCORE: scorer.score(frames, case.prompt)})

    return replace(suite, judge=judge, fingerprint=f"{suite.fingerprint}+clip:{_fingerprint(folder)}")


def _fingerprint(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _kind(folder: Path) -> object:
    """What `config.json` calls the model, before anything large is read."""
    try:
        return read_json(folder / "config.json").get("model_type")
    except WeightsError as error:
        raise RequestError(f"{folder} holds no CLIP model: {error}") from None


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What transformers cannot read, in one sentence of ours; its progress bars stay away from the terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(f"{folder} holds no CLIP model that transformers can read: {reason}") from None
    finally:
        if bars:
            logging.enable_progress_bar()
