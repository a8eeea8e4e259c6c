"""What may be asked, in which words, and what is said of everything else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogworks.config.request import GenerationRequest, parse_lora, parse_request, parse_size, request_keys
from cogworks.errors import RequestError

PROMPT = {"prompt": "a red circle"}


def test_words_of_the_command_line_and_of_diffusers_mean_the_same() -> None:
    short = {"size": "48x32", "frames": 9, "steps": 3, "guidance": 2, "dynamic_guidance": True, "sampler": "dpm-ode"}
    long = {
        "width": 48,
        "height": 32,
        "num_frames": 9,
        "num_inference_steps": 3,
        "guidance_scale": 2,
        "use_dynamic_cfg": True,
        "sampler": "dpm_ode",
    }
    assert parse_request(PROMPT | short) == parse_request(PROMPT | long)


def test_a_request_survives_json() -> None:
    request = parse_request({**PROMPT, "image": "a/b.png", "size": "48x32", "lora": ["a.safetensors:0.5"], "seed": 3})
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"frame": 9}, "did you mean 'frames'"),
        ({"zzzz": 9}, "known are"),
        ({"steps": 0}, "steps: input should be greater than 0, got 0"),
        ({"frames": -8}, "got -8"),
        ({"steps": "many"}, "got 'many'"),
        ({"strength": 0.5}, "give a video with it"),
        ({"video": "a.mp4", "strength": 1.5}, "less than or equal to 1"),
        ({"image": "a.png", "video": "a.mp4"}, "not both"),
        ({"seconds": 2, "frames": 17}, "not both"),
        ({"size": "64x64", "width": 64}, "not both"),
        ({"size": "64 by 64"}, "for example 720x480"),
        ({"size": "0x64"}, "for example 720x480"),
        ({"guidance": "nan"}, "finite"),
        ({"fps": 0}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 2**64}, "less than or equal"),
        ({"sampler": "euler"}, "ddim"),
        ({"fit": "squeeze"}, "crop"),
        ({"lora": "style.safetensors:inf"}, "style.safetensors:0.8"),
        ({"lora": 1}, "adapters are a list of files, got 1"),
    ],
)
def test_bad_values_get_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({**PROMPT, **values}, "jobs.txt line 3")
    message = str(caught.value)
    assert message.startswith("jobs.txt line 3: ")
    assert words in message
    assert "\n" not in message


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner))


@given(st.dictionaries(st.sampled_from(request_keys()) | st.text(max_size=8), VALUES, max_size=4))
def test_any_values_give_a_request_or_a_request_error(values: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        assert parse_request({**PROMPT, **values}).prompt


def test_size_is_width_first() -> None:
    assert parse_size("720X480") == (720, 480)


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        (r"C:\loras\style.safetensors", r"C:\loras\style.safetensors", 1.0),
        (r"C:\loras\style.safetensors:-1", r"C:\loras\style.safetensors", -1.0),
        ("take:two", "take:two", 1.0),
    ],
)
def test_an_adapter_has_a_path_and_perhaps_a_scale(text: str, path: str, scale: float) -> None:
    assert parse_lora(text).path == Path(path)
    assert parse_lora(text).scale == scale


def test_an_image_goes_to_the_model_that_takes_one() -> None:
    assert parse_request({"prompt": "a", "image": "first.png"}).model == "tiny-i2v"
    assert parse_request({"prompt": "a", "image": "first.png", "model": "tiny"}).model == "tiny"  # and is told there
    assert parse_request({"prompt": "a", "image": None, "model": None}).model == "tiny"
