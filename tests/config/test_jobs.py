"""Lists of jobs in three formats: what a line says, what holds where it is silent, what is said of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogworks.config.jobs import read_jobs
from cogworks.config.request import GenerationRequest
from cogworks.errors import RequestError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_prompt_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "jobs.txt", "a red circle\n\n# not a prompt\n  a blue star \n")
    jobs = read_jobs(path, {"steps": 3})
    assert [job.number for job in jobs] == [1, 4]
    assert [job.request for job in jobs] == [
        GenerationRequest(prompt="a red circle", num_inference_steps=3, seed=1),
        GenerationRequest(prompt="a blue star", num_inference_steps=3, seed=4),
    ]


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    csv = write(tmp_path, "jobs.csv", '\ufeffprompt,steps,size,output\n"a circle, red",3,48x32,\na star,,,s.gif\n')
    lines = '{"prompt": "a circle, red", "steps": 3, "size": "48x32"}\n{"prompt": "a star", "output": "s.gif"}\n'
    jsonl = write(tmp_path, "jobs.jsonl", lines)
    from_csv, from_jsonl = read_jobs(csv, {"seed": 7}), read_jobs(jsonl, {"seed": 7})
    assert [(job.request, job.output) for job in from_csv] == [(job.request, job.output) for job in from_jsonl]
    assert from_csv[1].output == Path("s.gif")


def test_a_line_wins_over_the_options_however_it_says_it(tmp_path: Path) -> None:
    path = write(tmp_path, "jobs.jsonl", '{"prompt": "a", "width": 32, "height": 48, "num_frames": 9}\n')
    (job,) = read_jobs(path, {"size": "64x64", "seconds": 2.0, "seed": 5})
    assert job.request == GenerationRequest(prompt="a", width=32, height=48, num_frames=9, seed=5)


@pytest.mark.parametrize(
    ("name", "text", "number", "words"),
    [
        ("jobs.jsonl", '{"prompt": "a"}\n{"prompt": \n', 2, "line 2: not valid JSON"),
        ("jobs.jsonl", '{"prompt": "a"}\n[1]\n', 2, "a job is a JSON object, got list"),
        ("jobs.jsonl", '{"prompt": "a"}\n{"prompt": "b", "output": 3}\n', 2, "output is the name of a file"),
        ("jobs.jsonl", '{"prompt": "a"}\n{"steps": 3}\n', 2, "prompt: field required"),
        ("jobs.jsonl", '{"prompt": "a"}\n{"prompt": "b", "step": 3}\n', 2, "did you mean 'steps'"),
        ("jobs.csv", "prompt,steps\na,2\nb,2,3\n", 3, "more cells than the header"),
        ("jobs.csv", "prompt,steps\na,2\nb,two\n", 3, "got 'two'"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, text: str, number: int, words: str
) -> None:
    good, bad = read_jobs(write(tmp_path, name, text), {})
    assert good.request is not None
    assert bad.request is None
    assert bad.number == number
    assert f"line {number}" in (bad.error or "")
    assert words in (bad.error or "")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "no list of jobs"),
        ("jobs.yaml", b"a", r"ends in \.jsonl, \.txt, \.csv"),
        ("jobs.txt", b"\xff\xfe\x00", "not text in UTF-8"),
        ("jobs.txt", b"\n# nothing\n", "holds no job"),
        ("jobs.csv", b"prompt\n", "holds no job"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=words):
        read_jobs(tmp_path / name, {})
