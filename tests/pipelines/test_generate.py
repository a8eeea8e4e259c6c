"""The laws of `Pipeline.generate`: seeds, prompts that are remembered, what begins a run, progress, interruption."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cogworks
from cogworks.config.measures import Measures
from cogworks.errors import RequestError, WeightsError
from cogworks.pipelines import prompts
from cogworks.pipelines.generate import Pipeline
from cogworks.pipelines.load import compute_dtype
from cogworks.pipelines.progress import Progress
from cogworks.pipelines.residence import Residence
from cogworks.pipelines.resume import RunCheckpoint
from cogworks.video import Video, resize_frames

Small = Callable[..., Pipeline]
PROMPT, OTHER = "a red circle", "the blue square"
CHECKPOINT = RunCheckpoint(Path("never-written"), "key")
BATCH_TOLERANCE = 1e-4  # pixels in [0, 1]: a batch may sum in another order; measured 2e-6


def clip(num_frames: int, height: int = 32, width: int = 32) -> Video:
    frames = np.random.default_rng(1).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    return Video(frames, 5)


def picture() -> np.ndarray:
    return clip(1).frames[0]


def pixels(pipeline: Pipeline, prompt: str | list[str] = PROMPT, **asked: Any) -> Tensor:
    made = pipeline.generate(prompt, output_type="pt", **asked)
    assert isinstance(made, Tensor)
    return made


def source(name: str) -> dict[str, Any]:
    return {"small-i2v": {"image": picture()}, "small-1.5": {"video": clip(8)}}.get(name, {})


# ---- seeds


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("name", ["small", "small-i2v", "small-1.5"])
def test_a_seed_gives_the_same_alone_and_in_a_batch(small: Small, name: str, sampler: str) -> None:
    """Text, image and video to video; the last two also draw from the posterior."""
    pipeline, asked = small(name), {"sampler": sampler, **source(name)}
    alone = [pixels(pipeline, prompt, seed=seed, **asked)[0] for prompt, seed in ((PROMPT, 3), (OTHER, 4))]
    batch = pixels(pipeline, [OTHER, PROMPT, OTHER], seed=[4, 3, 3], **asked)
    torch.testing.assert_close(batch[0], alone[1], atol=BATCH_TOLERANCE, rtol=0)
    torch.testing.assert_close(batch[1], alone[0], atol=BATCH_TOLERANCE, rtol=0)
    assert (batch[2] - alone[1]).abs().max() > 100 * BATCH_TOLERANCE  # negative control: the other's seed


@pytest.mark.parametrize("name", ["small", "small-i2v", "small-1.5"])
def test_videos_of_one_prompt_differ_and_the_first_is_that_of_the_seed(small: Small, name: str) -> None:
    pipeline, asked = small(name), {"sampler": "dpm", **source(name)}
    three = pixels(pipeline, [PROMPT, OTHER], num_videos_per_prompt=3, seed=[3, 4], **asked)
    two = pixels(pipeline, OTHER, num_videos_per_prompt=2, seed=4, **asked)
    assert len(three) == 6
    torch.testing.assert_close(three[3:5], two, atol=BATCH_TOLERANCE, rtol=0)
    torch.testing.assert_close(pixels(pipeline, OTHER, seed=4, **asked)[0], two[0], atol=BATCH_TOLERANCE, rtol=0)
    assert all((three[i] - three[j]).abs().max() > 0.01 for i in range(6) for j in range(i))


def test_a_seed_repeats_and_no_seed_does_not(small: Small) -> None:
    pipeline = small("small")
    assert torch.equal(pixels(pipeline, seed=3), pixels(pipeline, seed=3))
    assert not torch.equal(pixels(pipeline, seed=3), pixels(pipeline, seed=4))
    assert not torch.equal(pixels(pipeline), pixels(pipeline))


def test_a_generator_goes_on(small: Small) -> None:
    pipeline, generator = small("small"), torch.Generator().manual_seed(1)
    first, second = (pixels(pipeline, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, pixels(pipeline, generator=generator.manual_seed(1)))


# ---- prompts


def test_a_prompt_is_encoded_once(fresh: Small, reads: list[str]) -> None:
    """Where it does not stay, the text encoder is read once for both branches and not for a prompt seen before."""
    pipeline = fresh("small", measures=Measures(offload=True))
    first = pixels(pipeline, seed=1)
    assert reads.count("TextEncoder") == 1
    assert torch.equal(pixels(pipeline, seed=1), first)
    assert reads.count("TextEncoder") == 1
    pixels(pipeline, [PROMPT, OTHER, OTHER], negative_prompt="on black", seed=1)
    assert reads.count("TextEncoder") == 2


def test_networks_that_have_room_are_read_once(fresh: Small, reads: list[str]) -> None:
    pipeline = fresh("small")
    assert reads == []
    for prompt in (PROMPT, OTHER, "a"):
        pixels(pipeline, prompt)
    assert reads == ["TextEncoder", "Transformer", "VAE"]


def test_old_prompts_are_forgotten(fresh: Small, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "KEEP_PROMPTS", 2)
    encoder = fresh("small").prompts
    residence = Residence(encoder.components, offload=True)
    several = encoder.encode([PROMPT, OTHER, "a"], residence)
    assert several.shape == (3, 12, 32)
    for prompt, count in (("a", 1), (PROMPT, 1), ("red", 2), ("a", 2), (PROMPT, 3)):
        encoder.encode([prompt], residence)
        assert len(reads) == count, prompt
    torch.testing.assert_close(encoder.encode(["a", PROMPT]), several[[2, 0]])


def test_what_guidance_subtracts_is_the_variants(small: Small) -> None:
    """The encoded empty string, or zeros for a model that was trained so."""
    empty = small("small")
    variant = replace(empty.variant, unconditional="zeros")
    zeros = Pipeline(replace(empty.components, variant=variant))
    embeds = {"prompt_embeds": empty.prompts.encode([PROMPT]), "negative_prompt_embeds": torch.zeros(1, 12, 32)}
    assert torch.equal(pixels(empty, seed=1), pixels(empty, seed=1, negative_prompt=""))
    assert torch.equal(pixels(zeros, seed=1), pixels(empty, None, seed=1, **embeds))  # type: ignore[arg-type]
    assert torch.equal(pixels(zeros, seed=1, negative_prompt=""), pixels(empty, seed=1))
    assert not torch.equal(pixels(zeros, seed=1), pixels(empty, seed=1))


def test_an_overlong_prompt_says_what_is_cut(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = small("small")
    with caplog.at_level(logging.WARNING, logger="cogworks"):
        pixels(pipeline, " ".join(["red"] * 11))
        assert not caplog.records
        pixels(pipeline, " ".join(["red"] * 11) + " blue square")
    (record,) = caplog.records
    assert record.getMessage() == "the prompt is longer than 12 tokens; the model will not see: 'blue square'"


# ---- what begins and what comes out


def test_one_prompt_gives_a_video_and_several_give_a_list(small: Small) -> None:
    pipeline = small("small")
    video = pipeline.generate(PROMPT)
    assert isinstance(video, Video)
    assert video.frames.shape == (9, 32, 32, 3)
    assert video.fps == 8
    embeds = pipeline.prompts.encode([PROMPT])
    assert isinstance(pipeline.generate(prompt_embeds=embeds), Video)
    for several, count in (
        (pipeline.generate([PROMPT]), 1),
        (pipeline.generate([PROMPT, OTHER]), 2),
        (pipeline.generate(PROMPT, num_videos_per_prompt=2), 2),
    ):
        assert isinstance(several, list)
        assert len(several) == count


@pytest.mark.parametrize(("num_frames", "latent_frames"), [(1, 1), (8, 2), (9, 3), (16, 4), (17, 5)])
@pytest.mark.parametrize("name", ["small", "small-1.5"])
def test_every_legal_frame_count_comes_back(small: Small, name: str, num_frames: int, latent_frames: int) -> None:
    video = small(name).generate(PROMPT, num_frames=num_frames, width=16, height=32, fps=4)
    assert isinstance(video, Video)
    assert video.frames.shape == (num_frames, 32, 16, 3)
    assert video.fps == 4
    latents = small(name).generate(PROMPT, num_frames=num_frames, output_type="latent")
    pad = latent_frames % 2 if name == "small-1.5" else 0
    assert isinstance(latents, Tensor)
    assert latents.shape == (1, latent_frames + pad, 4, 4, 4)


@pytest.mark.parametrize(
    ("name", "available", "used"),
    [("small", 9, 9), ("small", 15, 9), ("small", 3, 1), ("small-1.5", 17, 16), ("small-1.5", 8, 8)],
)
def test_as_much_of_a_video_as_makes_a_legal_count(
    small: Small, name: str, available: int, used: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="cogworks"):
        video = small(name).generate(PROMPT, video=clip(available, 48, 20))
    assert isinstance(video, Video)
    assert video.frames.shape == (used, 32, 32, 3)
    assert video.fps == 5
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if used == available else [f"using the first {used} of the video's {available} frames"])


def test_little_strength_stays_near_the_video(small: Small) -> None:
    """The fewer steps are left, the nearer is the result to what the VAE makes of the video."""
    pipeline, source = small("small"), clip(9)
    distances = []
    vae = pipeline.components.vae
    with torch.no_grad():
        encoded = vae.to_diffusion(vae.encode(cogworks.video.to_pixels(source.frames)).mean).transpose(1, 2)
    for strength in (0.1, 0.5, 1.0):
        made = pipeline.generate(
            PROMPT, video=source, strength=strength, num_inference_steps=10, seed=1, output_type="latent"
        )
        distances.append((made - encoded).norm().item())
    assert distances == sorted(distances)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_another_aspect_is_made_to_fit_and_announced(small: Small, fit: str, caplog: pytest.LogCaptureFixture) -> None:
    """Crop by default; equal to handing in what was made to fit before."""
    pipeline, wide = small("small-i2v"), clip(1, 32, 64)
    made_to_fit = resize_frames(wide.frames, 32, 32, fit)
    caplog.set_level(logging.INFO, logger="cogworks.pipelines.sources")
    expected = pixels(pipeline, image=made_to_fit[0], seed=1)
    assert not caplog.records
    assert torch.equal(pixels(pipeline, image=wide.frames[0], seed=1, fit=fit), expected)
    (record,) = caplog.records
    assert record.getMessage().startswith("the image is 64x32 and the result 32x32: ")
    assert torch.equal(pixels(pipeline, image=wide.frames[0], seed=1), expected) == (fit == "crop")


def test_an_image_may_be_an_array_or_a_picture_of_any_mode(small: Small) -> None:
    pipeline = small("small-i2v")
    array = pixels(pipeline, image=picture(), seed=1)
    assert torch.equal(pixels(pipeline, image=Image.fromarray(picture()).convert("RGBA"), seed=1), array)
    assert not torch.equal(pixels(pipeline, image=255 - picture(), seed=1), array)
    larger = Image.fromarray(picture()).resize((64, 48)).convert("L")
    assert pixels(pipeline, image=larger).shape == array.shape


def test_the_result_of_saved_components_is_the_same(small: Small, tmp_path: Path) -> None:
    pipeline = small("small")
    pipeline.save_pretrained(tmp_path / "saved")
    again = cogworks.load(tmp_path / "saved", device="cpu")
    assert again.variant == pipeline.variant
    assert torch.equal(pixels(again, seed=1), pixels(pipeline, seed=1))
    with pytest.raises(WeightsError, match="empty"):
        pipeline.save_pretrained(tmp_path / "saved")


# ---- what is refused, before anything runs


@pytest.mark.parametrize(
    ("name", "asked", "sentence"),
    [
        ("small", {"prompt": None}, "give either prompt or prompt_embeds, and not both"),
        ("small", {"prompt_embeds": torch.zeros(1, 12, 32)}, "give either prompt or prompt_embeds, and not both"),
        ("small", {"prompt": []}, r"prompt must be a string or a list of strings, got \[\]"),
        ("small", {"prompt": ["a", 3]}, "prompt must be a string or a list of strings"),
        ("small", {"prompt": 3}, "prompt must be a string or a list of strings, got 3"),
        ("small", {"negative_prompt": 3}, "negative_prompt must be a string or a list of strings, got 3"),
        ("small", {"negative_prompt": ["a", "b"]}, "got 2 negative prompts for 1 prompts; give one, or one for each"),
        (
            "small",
            {"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 12, 32)},
            "give either negative_prompt or negative_prompt_embeds, not both",
        ),
        (
            "small",
            {"negative_prompt_embeds": torch.zeros(1, 12, 32)},
            "negative_prompt_embeds needs prompt_embeds, not prompt",
        ),
        (
            "small",
            {"prompt": None, "prompt_embeds": torch.zeros(12, 32)},
            r"prompt_embeds must have shape \(prompts, 12, 32\), got \(12, 32\)",
        ),
        (
            "small",
            {"prompt": None, "prompt_embeds": torch.zeros(1, 11, 32)},
            r"prompt_embeds must have shape \(prompts, 12, 32\), got \(1, 11, 32\)",
        ),
        (
            "small",
            {
                "prompt": None,
                "prompt_embeds": torch.zeros(1, 12, 32),
                "negative_prompt_embeds": torch.zeros(2, 12, 32),
            },
            "prompt_embeds and negative_prompt_embeds must have one shape",
        ),
        ("small", {"height": 40}, "height must be a positive multiple of 16, got 40; the nearest is 32"),
        ("small", {"width": 0}, "width must be a positive multiple of 16, got 0; the nearest is 16"),
        ("small", {"num_frames": 13}, r"frames must be 1, 8k or 8k \+ 1 .*, got 13; the nearest is 16"),
        ("small", {"num_frames": 0}, "got 0; the nearest is 1"),
        ("small", {"num_frames": -20}, "got -20; the nearest is 1"),
        ("small", {"video": clip(9), "num_frames": 8, "strength": 0.0}, "strength 0.0 of 3 steps leaves no step"),
        ("small", {"video": clip(9), "strength": 1.2}, r"strength must lie in \[0, 1\], got 1.2"),
        ("small", {"video": clip(9), "strength": 0.3}, "strength 0.3 of 3 steps leaves no step"),
        ("small", {"video": clip(9), "num_frames": 17}, "has 9 frames, and 17 were asked for; leave the number out"),
        ("small", {"video": clip(14), "num_frames": 14}, "got 14; the nearest is 9"),
        ("small-1.5", {"video": clip(7)}, "small-1.5 begins from a video of at least 8 frames, got one of 7"),
        (
            "small-1.5",
            {"video": clip(17), "num_frames": 17},
            "small-1.5 takes latent frames in pairs and begins from 8k frames, got 17; the nearest is 16",
        ),
        (
            "small",
            {"image": picture()},
            "small is a text-to-video model and cannot begin from an image; cogvideox-5b-i2v",
        ),
        ("small", {"image": picture(), "video": clip(9)}, "give an image or a video, not both"),
        ("small-i2v", {}, "small-i2v is an image-to-video model: it needs an image"),
        (
            "small-i2v",
            {"video": clip(9)},
            "small-i2v is an image-to-video model: it needs an image; .*cogvideox-5b, .* begin without one",
        ),
        ("small", {"height": 64.0}, "height must be a whole number, got 64.0"),
        ("small", {"width": True}, "width must be a whole number, got True"),
        ("small", {"num_frames": "nine"}, "the number of frames must be a whole number, got 'nine'"),
        ("small", {"width": 16 * 10**6}, "width must be at most 8192 pixels, got 16000000"),
        ("small", {"num_frames": 8 * 10**9}, "small makes at most 8001 frames, got 8000000000"),
        ("small", {"num_inference_steps": 2.5}, "the number of steps must be a whole number, got 2.5"),
        ("small-i2v", {"image": picture(), "fit": "squeeze"}, "with fit 'squeeze'; use .* crop, pad or stretch"),
        ("small", {"latents": torch.full((1, 3, 4, 4, 4), float("nan"))}, "latents holds values that are not finite"),
        (
            "small",
            {"prompt": None, "prompt_embeds": torch.full((1, 12, 32), float("inf"))},
            "prompt_embeds holds values that are not finite",
        ),
        (
            "small",
            {"checkpoint": CHECKPOINT},
            "a run with a checkpoint needs a seed",
        ),
        ("small", {"checkpoint": CHECKPOINT, "generator": torch.Generator()}, "a run with a checkpoint needs a seed"),
        (
            "small",
            {"checkpoint": CHECKPOINT, "seed": 1, "callback_on_step_end": lambda *arguments: None},
            "a run with a checkpoint takes no callback_on_step_end",
        ),
        ("small-i2v", {"image": picture()[0]}, r"frames must be an array \(frames, height, width, 3\)"),
        ("small-i2v", {"image": picture() / 255}, "frames must be uint8"),
        ("small", {"sampler": "euler"}, "no sampler named 'euler'; there are ddim, dpm, dpm_ode, ddpm"),
        ("small", {"num_inference_steps": 0}, "number of steps must lie in 1..1000, got 0"),
        ("small", {"num_inference_steps": 1001}, "number of steps must lie in 1..1000, got 1001"),
        ("small", {"guidance_scale": -1.0}, "guidance must be a number of at least 0, got -1.0"),
        ("small", {"guidance_scale": "6"}, "guidance must be a number of at least 0, got '6'"),
        ("small", {"seed": "x"}, "a seed must be a whole number, got 'x'"),
        ("small", {"num_videos_per_prompt": "2"}, "num_videos_per_prompt must be a whole number, got '2'"),
        ("small", {"fps": "8"}, "fps must be a positive number, got '8'"),
        ("small", {"video": clip(9), "strength": "1"}, r"strength must lie in \[0, 1\], got '1'"),
        ("small", {"guidance_scale": float("nan")}, "guidance must be a number of at least 0, got nan"),
        ("small", {"guidance_scale": float("inf")}, "guidance must be a number of at least 0, got inf"),
        ("small", {"num_videos_per_prompt": 0}, "num_videos_per_prompt must be at least 1, got 0"),
        ("small", {"seed": [1, 2]}, "got 2 seeds for 1 prompts; give one, or one for each"),
        ("small", {"seed": 1, "generator": torch.Generator()}, "give a seed or a generator, not both"),
        ("small", {"generator": [torch.Generator()] * 2}, "got 2 generators for 1 videos; give one, or one for each"),
        (
            "small",
            {"latents": torch.zeros(1, 4, 3, 4, 4)},
            r"latents must have shape \(1, 3, 4, 4, 4\), got \(1, 4, 3, 4, 4\)",
        ),
        ("small-1.5", {"latents": torch.zeros(1, 3, 4, 4, 4)}, r"latents must have shape \(1, 4, 4, 4, 4\)"),
        ("small", {"output_type": "pil"}, "output_type must be one of video, latent, pt, np, got 'pil'"),
        ("small", {"fps": 0.0}, "fps must be a positive number, got 0.0"),
    ],
)
def test_what_is_refused_before_anything_runs(
    fresh: Small, name: str, asked: dict[str, Any], sentence: str, reads: list[str]
) -> None:
    pipeline = fresh(name)
    told: list[Progress] = []
    with pytest.raises(cogworks.errors.CogworksError, match=sentence) as caught:
        pipeline.generate(**{"prompt": PROMPT, **asked}, on_progress=told.append)
    assert "\n" not in str(caught.value)
    assert reads == []
    assert told == []


def test_an_empty_prompt_is_a_prompt(small: Small) -> None:
    """What guidance subtracts, as in diffusers; so the scale changes nothing."""
    pipeline = small("small")
    one, other = (pixels(pipeline, "", seed=1, guidance_scale=scale) for scale in (2.0, 5.0))
    torch.testing.assert_close(one, other, atol=BATCH_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ({"latents": torch.zeros(1, 4, 3, 4, 4)}, r"returned latents of shape \(1, 4, 3, 4, 4\)"),
        ({"image_latents": torch.zeros(1)}, r"returned image_latents .* it may replace latents \(1, 3, 4, 4, 4\)"),
    ],
)
def test_what_a_callback_may_not_return(small: Small, returned: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        small("small").generate(PROMPT, callback_on_step_end=lambda *arguments: returned)


def test_without_guidance_a_callback_gets_one_branch(small: Small) -> None:
    seen = []

    def callback(pipeline: Pipeline, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
        seen.append((step, timestep, sorted(tensors)))

    small("small").generate(PROMPT, guidance_scale=1, callback_on_step_end=callback)
    assert seen == [(step, timestep, ["latents", "prompt_embeds"]) for step, timestep in enumerate((999, 666, 332))]


# ---- progress and interruption


@pytest.mark.parametrize("num_frames", [1, 9, 16, 17])
def test_progress_is_told_in_order_and_completely(small: Small, num_frames: int) -> None:
    told: list[Progress] = []
    small("small").generate(PROMPT, num_frames=num_frames, on_progress=told.append)
    latents = (num_frames - 1) // 4 + 1
    assert [phase for i, phase in enumerate(p.phase for p in told) if i == 0 or phase != told[i - 1].phase] == [
        "encode",
        "steps",
        "decode",
    ]
    for phase, total in (("encode", 1), ("steps", 3), ("decode", latents)):
        of_phase = [(p.done, p.total) for p in told if p.phase == phase]
        assert of_phase[0] == (0, total)
        assert of_phase[-1] == (total, total)
        assert of_phase == sorted(set(of_phase))
    assert [p.done for p in told if p.phase == "steps"] == [0, 1, 2, 3]


@pytest.mark.parametrize("moment", [Progress("encode", 1, 1), Progress("steps", 2, 3), Progress("decode", 3, 3)])
def test_ctrl_c_leaves_a_pipeline_that_works(small: Small, moment: Progress) -> None:
    pipeline = small("small")
    expected = pixels(small("small"), seed=1)

    def interrupt(progress: Progress) -> None:
        if progress == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.generate(PROMPT, seed=1, on_progress=interrupt)
    assert torch.is_grad_enabled()
    assert torch.equal(pixels(pipeline, seed=1), expected)


# ---- dtypes


@pytest.mark.parametrize("published", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_follows_what_the_device_can_do(
    published: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cogworks")
    assert compute_dtype(published, torch.device("cuda")) == published
    assert not caplog.records
    for has_bf16 in (False, True):
        caplog.clear()
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_bf16=has_bf16: has_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        native = published == torch.float32 or (published == torch.bfloat16 and has_bf16)
        assert compute_dtype(published, torch.device("cpu")) == (published if native else torch.float32)
        assert len(caplog.records) == (0 if native else 1)


def test_another_dtype_is_taken_when_asked_for(small: Small) -> None:
    folder = small("small").components.folder.path
    for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32), (torch.bfloat16, torch.bfloat16)):
        pipeline = cogworks.load(folder, dtype=name, device="cpu")
        assert pipeline.prompts.dtype == dtype
        assert pixels(pipeline, seed=1).dtype == torch.float32
    for wrong in ("int8", "fp8", "Tensor"):
        with pytest.raises(RequestError, match=f"no floating-point dtype named '{wrong}'"):
            cogworks.load(folder, dtype=wrong)
    with pytest.raises(RequestError, match="device 'warp' cannot be used here"):
        cogworks.load(folder, device="warp")
