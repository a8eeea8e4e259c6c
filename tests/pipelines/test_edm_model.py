"""A model in EDM's form: loaded, saved and sampled, beside diffusers' own pipeline with its EDM sampler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cogworks
from cogworks.config.architecture import EDM, EDMScheduleConfig
from cogworks.config.variants import COGVIDEOX_5B
from cogworks.doctor.configuration import check_configuration
from cogworks.errors import WeightsError
from cogworks.pipelines.generate import Pipeline
from cogworks.weights import configs
from cogworks.weights.source import open_folder
from cogworks.weights.variant_files import read_diffusers_variant, write_diffusers_variant
from helpers.small_models import TEXT_TOKENS, diffusers_pipeline

# Their state leaves data unscaled and is 60 times as large as ours in the beginning: 3e-5 measured, of latents up to 6.
TOLERANCE = 2e-4
VALUES = {"sigma_data": 0.8, "sigma_min": 0.01, "sigma_max": 60.0, "rho": 6.0}
SCHEDULE = EDMScheduleConfig(prediction=EDM(sigma_data=0.8), sigma_min=0.01, sigma_max=60.0, rho=6.0)


def request(**changes: Any) -> dict[str, Any]:
    given = torch.randn(2, 1, TEXT_TOKENS, 32, generator=torch.Generator().manual_seed(5))
    asked = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 4.0}
    embeddings = {"prompt_embeds": given[0], "negative_prompt_embeds": given[1]}
    return {**asked, **embeddings, "output_type": "latent", "generator": torch.Generator().manual_seed(0), **changes}


def run(pipeline: Any, **changes: Any) -> Tensor:
    """(B, t, C, h, w) latents of our pipeline or theirs."""
    if isinstance(pipeline, Pipeline):
        return pipeline.generate(**request(sampler="ddim", **changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(max_sequence_length=TEXT_TOKENS, **request(**changes)).frames


@pytest.mark.parametrize("variation", ["5b", "1.5-i2v"])
def test_videos_are_those_of_diffusers(variation: str, tmp_path: Path) -> None:
    """From their folder, and theirs from the folder that we save; another spread of the levels is another video."""
    from diffusers import EDMEulerScheduler

    theirs = diffusers_pipeline(variation)
    theirs.scheduler = EDMEulerScheduler(**VALUES)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = cogworks.load(tmp_path / "theirs")
    assert ours.variant.schedule == SCHEDULE
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = {"image": Image.fromarray(noise)} if variation.endswith("i2v") else {}

    expected = run(theirs, **image)
    torch.testing.assert_close(run(ours, **image), expected, rtol=0, atol=TOLERANCE)
    dynamic = {"use_dynamic_cfg": True, **image}
    torch.testing.assert_close(run(ours, **dynamic), run(theirs, **dynamic), rtol=0, atol=TOLERANCE)
    theirs.scheduler = EDMEulerScheduler(**{**VALUES, "rho": 5.0})
    assert (run(theirs, **image) - expected).abs().max() > 100 * TOLERANCE

    ours.save_pretrained(tmp_path / "ours")
    saved = type(theirs).from_pretrained(tmp_path / "ours")
    assert isinstance(saved.scheduler, EDMEulerScheduler)
    torch.testing.assert_close(run(saved, **image), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("with_our_file", [True, False])
def test_configuration_is_read_back(with_our_file: bool, tmp_path: Path) -> None:
    variant = replace(COGVIDEOX_5B, name="edm", hub_id=None, schedule=SCHEDULE)
    write_diffusers_variant(tmp_path, variant, ())
    if with_our_file:
        assert read_diffusers_variant(tmp_path) == variant
    else:
        (tmp_path / "cogworks.json").unlink()
        read = read_diffusers_variant(tmp_path)
        assert (read.schedule, read.transformer, read.defaults.sampler) == (SCHEDULE, variant.transformer, "ddim")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prediction_type", "v_prediction", "only 'epsilon' is supported"),
        ("sigma_schedule", "exponential", "only 'karras' is supported"),
        ("final_sigmas_type", "sigma_min", "only 'zero' is supported"),
        ("sigma_min", 90.0, "sigma_min must lie between 0 and sigma_max"),
        ("sigma_data", -1.0, "sigma_data must be positive"),
        ("solver_order", 2, "unknown key 'solver_order'"),
    ],
)
def test_what_the_samplers_cannot_honour_is_refused(key: str, value: object, message: str) -> None:
    written = configs.write_schedule(SCHEDULE, "ddim")
    assert configs.read_schedule(written, "config") == SCHEDULE
    with pytest.raises(WeightsError, match=message):
        configs.read_schedule({**written, key: value}, "config")


def test_doctor_says_what_the_levels_are(tmp_path: Path) -> None:
    variant = replace(COGVIDEOX_5B, name="edm", hub_id=None, schedule=SCHEDULE)
    write_diffusers_variant(tmp_path, variant, ("transformer", "vae", "text_encoder", "tokenizer"))
    configuration, findings = check_configuration(open_folder(tmp_path))
    assert configuration.nearest.name == COGVIDEOX_5B.name
    (finding,) = [each for each in findings if each.part == "schedule"]
    assert finding.severity == "note"
    assert "EDM from 60 to 0.01 with rho 6 and sigma_data 0.8" in finding.text
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "rho": 7.0}))
    _, findings = check_configuration(open_folder(tmp_path))
    assert any("rho 7.0" in each.text for each in findings)
