"""Suites from files: what a line may say, what is refused, and what the judge measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError
from cogworks.evaluation.case import Case, Suite
from cogworks.evaluation.figures.measures import reference_measures, temporal_measures
from cogworks.evaluation.figures.metrics import first_frame_psnr
from cogworks.evaluation.file_suite import read_suite
from cogworks.video import Video, read_video

TEXT, IMAGE = VARIANTS["cogvideox-2b"], VARIANTS["cogvideox-5b-i2v"]


def noise(seed: int, shape: tuple[int, ...] = (5, 32, 48, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, *lines: object) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def save_picture(folder: Path, name: str = "start.png", seed: int = 0) -> str:
    Image.fromarray(noise(seed, (48, 48, 3))).save(folder / name)
    return name


def save_video(folder: Path, name: str = "real.mp4", seed: int = 0) -> str:
    Video(noise(seed), 8).save(folder / name)
    return name


def test_lines_become_cases(tmp_path: Path) -> None:
    video = save_video(tmp_path)
    path = write(
        tmp_path,
        {"prompt": "a cat"},
        "",
        {"prompt": "a dog", "seed": 7, "group": "animals"},
        {"prompt": "a cat", "reference": video},
    )
    suite = read_suite(path, TEXT)
    assert suite.name == "mine.jsonl"
    assert suite.cases == (
        Case(1, "prompts", "a cat", 1),
        Case(2, "animals", "a dog", 7),
        Case(3, "prompts", "a cat", 4, reference=tmp_path / video),
    )  # without a seed the number of the line, which makes that of each sample of a prompt another one


@pytest.mark.parametrize(("name", "text"), [("a.txt", "# mine\na cat\na dog\n"), ("a.csv", "prompt\na cat\na dog\n")])
def test_other_lists_are_read_too(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    suite = read_suite(tmp_path / name, TEXT)
    assert [(case.number, case.prompt, case.seed) for case in suite.cases] == [(1, "a cat", 2), (2, "a dog", 3)]


def test_pictures_come_in_the_size_of_the_model(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, {"prompt": "a cat", "image": save_picture(tmp_path)}), IMAGE)
    image = suite.cases[0].image
    assert image is not None
    assert image.shape == (IMAGE.defaults.height, IMAGE.defaults.width, 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        (["a cat"], "a job is a JSON object"),
        ({}, "prompt: field required"),
        ({"prompt": " "}, "a prompt or a group that is empty"),
        ({"prompt": "a", "sed": 1}, "unknown key 'sed'; did you mean 'seed'"),
        ({"prompt": "a", "seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"prompt": "a", "reference": "none.mp4"}, "none.mp4"),
        ({"prompt": "a", "image": "start.png"}, "cogvideox-2b makes videos from text alone"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: object, words: str) -> None:
    path = write(tmp_path, {"prompt": "fine"}, line)
    with pytest.raises(RequestError, match=r"mine\.jsonl line 2: ") as error:
        read_suite(path, TEXT)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_for_images_needs_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="line 1: cogvideox-5b-i2v makes videos from an image"):
        read_suite(write(tmp_path, {"prompt": "a"}), IMAGE)
    with pytest.raises(RequestError, match=r"line 1: .*none\.png"):
        read_suite(write(tmp_path, {"prompt": "a", "image": "none.png"}), IMAGE)


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no case"):
        read_suite(write(tmp_path, ""), TEXT)
    with pytest.raises(RequestError, match=r"none\.jsonl"):
        read_suite(tmp_path / "none.jsonl", TEXT)


def test_the_fingerprint_knows_every_content(tmp_path: Path) -> None:
    lines = [{"prompt": "a", "reference": save_video(tmp_path)}, {"prompt": "b"}]

    def fingerprint(*changed: object) -> str:
        return read_suite(write(tmp_path, *changed), TEXT).fingerprint

    first = fingerprint(*lines)
    assert fingerprint(*lines) == first
    assert fingerprint(lines[0], "", {"prompt": "b", "seed": 2}) == first  # the same cases, said otherwise
    others = {
        fingerprint(lines[0]),
        fingerprint(*lines[::-1]),
        fingerprint({**lines[0], "seed": 9}, lines[1]),
        fingerprint({**lines[0], "group": "other"}, lines[1]),
    }
    save_video(tmp_path, seed=1)  # another video under the same name
    others.add(fingerprint(*lines))
    assert len(others - {first}) == 5


def test_the_judge_measures_what_there_is(tmp_path: Path) -> None:
    frames = noise(2)
    plain = judged(read_suite(write(tmp_path, {"prompt": "a"}), TEXT), frames)
    assert plain == temporal_measures(frames)
    reference = save_video(tmp_path)
    suite = read_suite(write(tmp_path, {"prompt": "a", "reference": reference}), TEXT)
    decoded = read_video(tmp_path / reference).frames
    assert judged(suite, frames) == {**plain, **reference_measures(frames, decoded)}
    suite = read_suite(write(tmp_path, {"prompt": "a", "image": save_picture(tmp_path)}), IMAGE)
    image = suite.cases[0].image
    assert image is not None
    assert judged(suite, frames) == {**plain, "first frame PSNR": first_frame_psnr(image, frames)}


def judged(suite: Suite, frames: NDArray[np.uint8]) -> dict[str, float]:
    case = suite.cases[0]
    outcome = suite.judge(case, frames)
    assert (outcome.number, outcome.group, outcome.prompt, outcome.seed) == (1, "prompts", "a", 1)
    assert outcome.marks == {}
    return outcome.measures
