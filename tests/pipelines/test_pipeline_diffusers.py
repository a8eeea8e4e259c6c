"""Whole pipelines beside diffusers': the same folder, the same request, the same frames.

Small random networks, ten steps. Frames are in [0, 1], about half of them not saturated; latents reach 6.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cogworks
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior
from cogworks.pipelines import conditioning, noise
from cogworks.pipelines.conditioning import Start
from cogworks.pipelines.geometry import decoded_frames
from cogworks.video import Video
from helpers.small_models import TEXT_TOKENS
from helpers.tiny_pipeline import PUBLISHED_SAMPLER, PipelinePair

# Measured 1.9e-5: ten steps that guidance multiplies by up to 13, and a decoder of sums in another order.
TOLERANCE = 1e-4
STEPS = 10
PROMPT, OTHER, NEGATIVE = "a red circle moves right", "the blue square on black", "white background quickly"

Pair = Callable[[str], PipelinePair]
Shape = tuple[int, int, int]  # frames, height, width
SMALL, TRAINED = (9, 32, 48), (9, 64, 64)


def request(**changes: Any) -> dict[str, Any]:
    return {"num_inference_steps": STEPS, "guidance_scale": 6.0, "output_type": "pt", **changes}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sized(shape: Shape) -> dict[str, int]:
    return dict(zip(("num_frames", "height", "width"), shape, strict=True))


def embeddings(batch: int = 1) -> dict[str, Tensor]:
    given = torch.randn(2, batch, TEXT_TOKENS, 32, generator=seeded(5))
    return {"prompt_embeds": given[0], "negative_prompt_embeds": given[1]}


def given_latents(latent_frames: int, shape: Shape, batch: int = 1) -> Tensor:
    return torch.randn(batch, latent_frames, 4, shape[1] // 8, shape[2] // 8, generator=seeded(6))


def picture(shape: Shape, seed: int = 7) -> Image.Image:
    """Noise under a gradient, of the size asked for: nothing is resized."""
    return Image.fromarray(clip((1, *shape[1:]), seed).frames[0])


def clip(shape: Shape, seed: int = 7) -> Video:
    noise = np.random.default_rng(seed).integers(0, 128, (*shape, 3), dtype=np.uint8)
    return Video(noise + np.linspace(0, 127, shape[2]).astype(np.uint8)[:, None], 8)


def run_theirs(pipeline: Any, **asked: Any) -> Any:
    return pipeline(max_sequence_length=TEXT_TOKENS, **asked).frames


def images(variation: str, shape: Shape, batch: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image argument of both sides; diffusers wants one for each prompt."""
    if not variation.endswith("i2v"):
        return {}, {}
    image = picture(shape)
    return {"image": image}, {"image": [image] * batch}


def assert_frames(ours: Any, theirs: Any) -> None:
    assert tuple(ours.shape) == tuple(theirs.shape)
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=TOLERANCE, rtol=0)


def distance(ours: Any, theirs: Any) -> float:
    return (torch.as_tensor(ours) - torch.as_tensor(theirs)).abs().max().item()


# ---- from given latents and embeddings


@pytest.mark.parametrize(("sampler", "dynamic"), [("ddim", False), ("dpm", True)])
@pytest.mark.parametrize(
    ("variation", "shape", "latent_frames"),
    [
        ("2b", SMALL, 3),
        ("2b", TRAINED, 3),
        ("5b", SMALL, 3),
        ("5b", (17, 48, 32), 5),
        ("5b-i2v", TRAINED, 3),
        ("1.5", SMALL, 4),  # 3 latent frames and a pad
        ("1.5", (16, 48, 32), 4),  # no pad
        ("1.5-i2v", SMALL, 4),
        ("1.5-i2v", (16, 48, 32), 4),
    ],
)
def test_from_given_latents_and_embeddings(
    pair: Pair, variation: str, shape: Shape, latent_frames: int, sampler: str, dynamic: bool
) -> None:
    model = pair(variation)
    asked = request(
        **sized(shape), **embeddings(), latents=given_latents(latent_frames, shape), use_dynamic_cfg=dynamic
    )
    our_image, their_image = images(variation, shape)
    ours = model.ours.generate(**asked, **our_image, sampler=sampler, generator=seeded())
    theirs = run_theirs(model.with_sampler(sampler), **asked, **their_image, generator=seeded())
    assert_frames(ours, theirs)
    assert 0.2 < ((ours > 0) & (ours < 1)).float().mean() < 0.9  # there is something to compare


@pytest.mark.parametrize(("variation", "dynamic"), [("2b", True), ("5b", False)])
def test_the_other_guidance(pair: Pair, variation: str, dynamic: bool) -> None:
    model = pair(variation)
    asked = request(**sized(SMALL), **embeddings(2), latents=given_latents(3, SMALL, 2), use_dynamic_cfg=dynamic)
    theirs = run_theirs(model.theirs, **asked, generator=seeded())
    assert_frames(model.ours.generate(**asked, generator=seeded()), theirs)
    assert distance(model.ours.generate(**{**asked, "use_dynamic_cfg": not dynamic}, generator=seeded()), theirs) > 0.1


# ---- from prompts and a generator


@pytest.mark.parametrize("variation", PUBLISHED_SAMPLER)
def test_from_a_prompt_and_a_generator(pair: Pair, variation: str) -> None:
    """Sampler, steps of the generator and size of the folder; the generators end in the same state."""
    model = pair(variation)
    our_image, their_image = images(variation, TRAINED)
    asked = request(prompt=PROMPT, num_frames=9)
    mine, other = seeded(), seeded()
    ours = model.ours.generate(**asked, **our_image, generator=mine)
    assert_frames(ours, run_theirs(model.theirs, **asked, **their_image, generator=other))
    assert torch.equal(mine.get_state(), other.get_state())
    assert distance(model.ours.generate(**asked, **our_image, generator=seeded(1)), ours) > 0.1


@pytest.mark.parametrize("variation", ["5b", "1.5-i2v"])
@pytest.mark.parametrize("one_each", [False, True])
def test_several_prompts_with_negative_ones(pair: Pair, variation: str, one_each: bool) -> None:
    model = pair(variation)
    our_image, their_image = images(variation, SMALL, batch=2)
    asked = request(prompt=[PROMPT, OTHER], negative_prompt=[NEGATIVE, ""], **sized(SMALL))
    generators = [[seeded(1), seeded(2)] if one_each else seeded() for _ in range(2)]
    ours = model.ours.generate(**asked, **our_image, generator=generators[0])
    theirs = run_theirs(model.theirs, **asked, **their_image, generator=generators[1])
    assert_frames(ours, theirs)
    assert (
        distance(model.ours.generate(**{**asked, "negative_prompt": None}, **our_image, generator=seeded()), ours) > 0.1
    )


def test_one_negative_prompt_for_all(pair: Pair) -> None:
    model = pair("2b")
    asked = request(prompt=[PROMPT, OTHER], negative_prompt=NEGATIVE, **sized(SMALL))
    assert_frames(
        model.ours.generate(**asked, generator=seeded()), run_theirs(model.theirs, **asked, generator=seeded())
    )


@pytest.mark.parametrize("variation", ["2b", "5b-i2v"])
def test_several_videos_of_a_prompt(pair: Pair, variation: str) -> None:
    """Diffusers takes num_videos_per_prompt and makes one; repeating the prompt makes several there."""
    model = pair(variation)
    our_image, their_image = images(variation, TRAINED, batch=4)
    asked = request(num_frames=9, num_inference_steps=4)
    ours = model.ours.generate([PROMPT, OTHER], num_videos_per_prompt=2, **asked, **our_image, generator=seeded())
    repeated = [PROMPT, PROMPT, OTHER, OTHER]
    assert_frames(ours, run_theirs(model.theirs, prompt=repeated, **asked, **their_image, generator=seeded()))
    one_image = {} if variation == "2b" else {"image": our_image["image"]}
    alone = run_theirs(model.theirs, prompt=PROMPT, num_videos_per_prompt=2, **asked, **one_image, generator=seeded())
    assert len(alone) == 1


@pytest.mark.parametrize("guidance_scale", [1.0, 0.0])
def test_without_guidance(pair: Pair, guidance_scale: float) -> None:
    model = pair("5b")
    asked = request(prompt=PROMPT, **sized(SMALL), guidance_scale=guidance_scale)
    ours = model.ours.generate(**asked, generator=seeded())
    assert_frames(ours, run_theirs(model.theirs, **asked, generator=seeded()))
    assert distance(ours, model.ours.generate(**{**asked, "guidance_scale": 1.1}, generator=seeded())) > 10 * TOLERANCE


# ---- from a video


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize(
    ("variation", "shape", "strength", "dynamic"),
    [
        ("2b", SMALL, 0.8, False),
        ("5b", (9, 48, 32), 0.3, True),
        ("5b", (17, 32, 32), 1.0, False),
        ("1.5", (16, 32, 48), 0.55, True),
    ],
)
def test_from_a_video(pair: Pair, variation: str, shape: Shape, strength: float, dynamic: bool, sampler: str) -> None:
    model = pair(variation)
    source = clip(shape)
    asked = request(prompt=PROMPT, height=shape[1], width=shape[2], strength=strength, use_dynamic_cfg=dynamic)
    mine, other = seeded(), seeded()
    ours = model.ours.generate(**asked, video=source, sampler=sampler, generator=mine)
    frames = [Image.fromarray(frame) for frame in source.frames]
    theirs = run_theirs(model.with_sampler(sampler, video_to_video()), **asked, video=frames, generator=other)
    assert_frames(ours, theirs)
    assert torch.equal(mine.get_state(), other.get_state())
    if strength < 1:
        assert (
            distance(model.ours.generate(**asked, video=clip(shape, 8), sampler=sampler, generator=seeded()), ours)
            > 0.05
        )


def video_to_video() -> type:
    from diffusers import CogVideoXVideoToVideoPipeline

    return CogVideoXVideoToVideoPipeline


def test_from_a_video_for_several_prompts(pair: Pair) -> None:
    model, source = pair("5b"), clip(SMALL)
    frames = [Image.fromarray(frame) for frame in source.frames]
    asked = request(prompt=[PROMPT, OTHER], height=32, width=48, strength=0.5)
    theirs = run_theirs(
        model.with_sampler("dpm", video_to_video()), **asked, video=[frames, frames], generator=[seeded(1), seeded(2)]
    )
    assert_frames(model.ours.generate(**asked, video=source, generator=[seeded(1), seeded(2)]), theirs)


def test_from_latents_on_the_way(pair: Pair) -> None:
    """Latents at the level that `strength` leaves: diffusers takes them instead of the video, we take both."""
    model, latents = pair("2b"), given_latents(3, SMALL)
    asked = request(**embeddings(), height=32, width=48, strength=0.5, latents=latents)
    theirs = run_theirs(model.with_sampler("ddim", video_to_video()), **asked)
    assert_frames(model.ours.generate(**asked, video=clip(SMALL)), theirs)


# ---- what comes out


@pytest.mark.parametrize("variation", ["5b", "1.5"])
@pytest.mark.parametrize("output_type", ["latent", "np", "pt"])
def test_output_types(pair: Pair, variation: str, output_type: str) -> None:
    """Latents keep the pad of 1.5, pixels do not have it."""
    model = pair(variation)
    asked = request(prompt=PROMPT, **sized(SMALL), output_type=output_type)
    ours = model.ours.generate(**asked, generator=seeded())
    theirs = run_theirs(model.theirs, **asked, generator=seeded())
    assert type(ours) is type(theirs)
    assert_frames(ours, theirs)


def test_a_video_is_the_rounded_pixels(pair: Pair) -> None:
    model = pair("5b")
    asked = request(prompt=PROMPT, **sized(SMALL), output_type="np")
    theirs = run_theirs(model.theirs, **asked, generator=seeded())
    video = model.ours.generate(**{**asked, "output_type": "video"}, generator=seeded())
    assert isinstance(video, Video)
    assert np.abs(video.frames.astype(float) / 255 - theirs[0]).max() < 0.5 / 255 + TOLERANCE


@pytest.mark.parametrize("num_frames", range(1, 19))
def test_frame_counts_of_diffusers(pair: Pair, num_frames: int) -> None:
    """What comes back for each count there; here only those that come back whole are taken (docs/parity.md)."""
    latents = torch.zeros(1, 4, (num_frames - 1) // 4 + 1, 1, 1)
    with torch.no_grad():
        returned = pair("2b").theirs.vae.decode(latents).sample.shape[2]
    assert decoded_frames(num_frames, 4) == returned


def test_in_bfloat16_the_state_stays_float32(pair: Pair) -> None:
    """Diffusers rounds the state to the dtype of the embeddings after every step: ours ends nearer to float32."""
    model, steps = pair("5b"), 25
    asked = request(**sized(SMALL), latents=given_latents(3, SMALL), output_type="latent", num_inference_steps=steps)
    reference = run_theirs(model.with_sampler("ddim"), **asked, **embeddings())
    theirs = model.with_sampler("ddim")
    theirs.register_modules(transformer=deepcopy(theirs.transformer).to(torch.bfloat16))
    rounded = {name: tensor.bfloat16() for name, tensor in embeddings().items()}
    their_latents = run_theirs(theirs, **{**asked, "latents": asked["latents"].bfloat16()}, **rounded)
    ours = cogworks.load(model.folder, dtype="bf16").generate(**asked, **rounded, sampler="ddim")
    errors = [((latents.float() - reference).norm() / reference.norm()).item() for latents in (ours, their_latents)]
    assert ours.dtype == torch.float32
    assert errors[0] < 0.8 * errors[1] < 0.05


# ---- the callback


def test_the_callback_sees_and_replaces_latents(pair: Pair) -> None:
    model = pair("5b")
    seen: dict[str, list[tuple[int, int, Tensor]]] = {"ours": [], "theirs": []}

    def replace(name: str) -> Callable[..., dict[str, Tensor]]:
        def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            seen[name].append((step, int(timestep), tensors["latents"].clone()))
            return {"latents": tensors["latents"] * 0.5 + 1} if step == 3 else {}

        return callback

    asked = request(prompt=PROMPT, **sized(SMALL))
    ours = model.ours.generate(**asked, generator=seeded(), callback_on_step_end=replace("ours"))
    theirs = run_theirs(model.theirs, **asked, generator=seeded(), callback_on_step_end=replace("theirs"))
    assert_frames(ours, theirs)
    assert [call[:2] for call in seen["ours"]] == [call[:2] for call in seen["theirs"]]
    for mine, other in zip(seen["ours"], seen["theirs"], strict=True):
        torch.testing.assert_close(mine[2], other[2], atol=TOLERANCE, rtol=0)
    assert distance(model.ours.generate(**asked, generator=seeded()), ours) > 0.1  # the replacement mattered


def test_the_callback_replaces_embeddings(pair: Pair) -> None:
    """Diffusers hands out both branches as one tensor, negative first; we hand them out apart."""
    model, new = pair("2b"), embeddings()
    asked = request(prompt=PROMPT, **sized(SMALL))

    def ours(pipeline: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert tensors["prompt_embeds"].shape == tensors["negative_prompt_embeds"].shape == (1, TEXT_TOKENS, 32)
        return new if step == 2 else {}

    def theirs(pipeline: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        both = torch.cat([new["negative_prompt_embeds"], new["prompt_embeds"]])
        return {"prompt_embeds": both} if step == 2 else {}

    expected = run_theirs(model.theirs, **asked, generator=seeded(), callback_on_step_end=theirs)
    assert_frames(model.ours.generate(**asked, generator=seeded(), callback_on_step_end=ours), expected)


# ---- negative controls: one thing of ours wrong, and the comparison fails


def _noise_before_image(monkeypatch: pytest.MonkeyPatch) -> None:
    right = conditioning.image_to_video

    def early(image: Posterior, latents: Tensor | None, blank: Tensor, noise: Any, vae: VAE) -> Start:
        return right(image, noise.start(blank), blank, noise, vae)

    monkeypatch.setattr("cogworks.pipelines.execution.image_to_video", early)


def _image_scaled_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAE, "image_condition", VAE.to_diffusion)


def _mean_of_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise.GeneratorNoise, "posterior", lambda self, posterior: posterior.mean)


@pytest.mark.parametrize(
    ("mistake", "variation"),
    [
        (_noise_before_image, "5b-i2v"),
        (_image_scaled_as_elsewhere, "1.5-i2v"),
        (_mean_of_posterior, "5b-i2v"),
    ],
)
def test_a_mistake_is_seen(
    pair: Pair, mistake: Callable[[pytest.MonkeyPatch], None], variation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pair(variation)
    our_image, their_image = images(variation, TRAINED)
    asked = request(prompt=PROMPT, num_frames=9)
    theirs = run_theirs(model.theirs, **asked, **their_image, generator=seeded())
    mistake(monkeypatch)
    assert distance(model.ours.generate(**asked, **our_image, generator=seeded()), theirs) > 10 * TOLERANCE


def test_a_pad_dropped_behind_is_seen(pair: Pair) -> None:
    model = pair("1.5")
    asked = request(prompt=PROMPT, **sized(SMALL))
    theirs = run_theirs(model.theirs, **asked, generator=seeded())
    latents = model.ours.generate(**{**asked, "output_type": "latent"}, generator=seeded()).transpose(1, 2)
    vae = model.ours.components.vae
    for kept, is_right in ((latents[:, :, 1:], True), (latents[:, :, :-1], False)):
        with torch.no_grad():
            pixels = vae.decode(vae.from_diffusion(kept)).transpose(1, 2) / 2 + 0.5
        assert (distance(pixels.clamp(0, 1), theirs) < TOLERANCE) == is_right


def test_another_strength_is_seen(pair: Pair) -> None:
    model, source = pair("2b"), clip(SMALL)
    asked = request(prompt=PROMPT, height=32, width=48)
    frames = [Image.fromarray(frame) for frame in source.frames]
    theirs = run_theirs(
        model.with_sampler("ddim", video_to_video()), **asked, video=frames, strength=0.5, generator=seeded()
    )
    for strength in (0.4, 0.6):
        ours = model.ours.generate(**asked, video=source, strength=strength, generator=seeded())
        assert distance(ours, theirs) > 10 * TOLERANCE
