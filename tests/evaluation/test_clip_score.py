"""The CLIP score against one worked out from the model's own parts, picture by picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from cogworks.errors import RequestError
from cogworks.evaluation.case import Case, Frames, Outcome, Suite
from cogworks.evaluation.figures import clip_score
from cogworks.evaluation.figures.clip_score import ClipScorer, with_clip_score
from helpers.small_clip import SIZE, TOKENS, save_small_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of CLIP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_clip(tmp_path_factory.mktemp("clip") / "model")


def noise(frames: int, height: int = SIZE, width: int = SIZE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@torch.no_grad()
def expected(folder: Path, frames: NDArray[np.uint8], prompt: str) -> float:
    """Towers and projections one by one, the pictures prepared by hand, one at a time."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(prompt, truncation=True, max_length=TOKENS, return_tensors="pt")
    text = model.text_projection(model.text_model(**tokens).pooler_output)[0]
    scores = []
    for frame in frames:
        height, width = frame.shape[:2]
        scale = SIZE / min(height, width)
        picture = Image.fromarray(frame).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
        left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
        cut = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float64)
        pixels = torch.from_numpy(((cut / 255 - MEAN) / STD).transpose(2, 0, 1))[None].float()
        image = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        scores.append(float(torch.dot(image, text) / image.norm() / text.norm()))
    return 100 * sum(scores) / len(scores)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (32, 48)])
def test_score_is_the_mean_cosine(folder: Path, size: tuple[int, int]) -> None:
    frames = noise(3, *size)
    score = ClipScorer(folder).score(frames, "a red circle")
    # 1e-3 of a score in -100..100: float32 through two towers; another prompt or picture differs by 0.1 and more.
    assert score == pytest.approx(expected(folder, frames, "a red circle"), abs=1e-3)


def test_the_comparison_can_fail(folder: Path) -> None:
    frames, scorer = noise(3), ClipScorer(folder)
    score = scorer.score(frames, "a red circle")
    for wrong in (
        expected(folder, frames, "a blue square"),
        expected(folder, frames[..., ::-1], "a red circle"),
        expected(folder, frames[:1], "a red circle"),
    ):
        assert abs(score - wrong) > 0.1


def test_all_frames_count_and_their_batches_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, scorer = noise(5), ClipScorer(folder)
    alone = [scorer.score(frames[i : i + 1], "a b") for i in range(5)]
    monkeypatch.setattr(clip_score, "FRAMES_AT_ONCE", 2)
    assert scorer.score(frames, "a b") == pytest.approx(np.mean(alone), abs=1e-4)


def test_long_prompts_are_cut_to_what_the_model_reads(folder: Path) -> None:
    scorer, frames = ClipScorer(folder), noise(1)
    assert scorer.score(frames, "a " * 100) == scorer.score(frames, "a " * 200)


def judge(case: Case, frames: Frames) -> Outcome:
    return Outcome(case.number, case.group, case.prompt, case.seed, measures={"flicker": 1.0})


def test_a_suite_gets_the_measure_and_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    case, frames = Case(1, "prompts", "a red circle", 1), noise(3)
    plain = Suite("mine", (case,), judge, "abc")
    scored = with_clip_score(plain, folder)
    assert scored.judge(case, frames).measures == {
        "flicker": 1.0,
        "CLIP score": ClipScorer(folder).score(frames, case.prompt),
    }
    other = with_clip_score(plain, save_small_clip(tmp_path / "other", seed=1))
    assert len({plain.fingerprint, scored.fingerprint, other.fingerprint}) == 3
    assert scored.fingerprint == with_clip_score(plain, folder).fingerprint


@pytest.mark.parametrize("left", [[], ["config.json"], ["config.json", "model.safetensors"]])
def test_folders_without_clip_are_refused(folder: Path, tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(RequestError, match="holds no CLIP model"):
        ClipScorer(tmp_path)


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(RequestError, match=r"its config\.json says 't5'"):
        ClipScorer(tmp_path)


def test_missing_weights_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"visual_projection\.weight is not in its weights"):
        ClipScorer(tmp_path)


def test_what_to_install_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError, match=r"pip install 'cogworks\[eval\]'"):
        ClipScorer(folder)
