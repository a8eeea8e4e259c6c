"""The VAE against arrays recorded from the original SAT code, both generations.

Weights, inputs and tolerances are those of tests/golden/cogvideox_sat/README.md.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogworks.config.architecture import VAEConfig
from cogworks.models.vae import VAE
from cogworks.models.vae_posterior import Posterior
from helpers.golden_weights import GOLDEN
from helpers.vae_reference import rename

MOMENTS, SAMPLES, KL = 2e-5, 1e-6, 1e-4
DECODED, DECODED_RELATIVE_L2 = 1.5e-4, 5e-6

CONFIG = VAEConfig(
    widths=(32, 64, 32, 32),
    latent_channels=4,
    layers_per_block=1,
    norm_groups=32,
    scaling_factor=0.7,
    invert_scale_latents=False,
    sample_size=(32, 24),
)

RENAMED_FROM_SAT = (
    (r"\bdown\.", "levels."),
    (r"\bup\.0\.", "levels.3."),  # SAT numbers the decoder's levels from the largest picture
    (r"\bup\.1\.", "levels.2."),
    (r"\bup\.2\.", "levels.1."),
    (r"\bup\.3\.", "levels.0."),
    (r"\bmid\.block_1\.", "middle.0."),
    (r"\bmid\.block_2\.", "middle.1."),
    (r"\bblock\.", "blocks."),
    (r"\bnin_shortcut\b", "shortcut"),
    (r"(conv_in|conv_out|conv1|conv2)\.conv\.", r"\1."),
    (r"\bnorm_layer\b", "norm"),
    (r"\bconv_y\.conv\b", "scale"),
    (r"\bconv_b\.conv\b", "shift"),
)


@pytest.fixture(scope="module")
def vae() -> VAE:
    weights = load_file(GOLDEN / "vae.weights.safetensors")
    model = VAE(CONFIG).eval()
    model.load_state_dict({rename(name, RENAMED_FROM_SAT): w.float() for name, w in weights.items()})
    return model.requires_grad_(False)


@cache
def arrays(name: str) -> dict[str, Tensor]:
    return {key: array.float() for key, array in load_file(GOLDEN / f"{name}.io.safetensors").items()}


def assert_decoded(ours: Tensor, golden: Tensor) -> None:
    torch.testing.assert_close(ours, golden, atol=DECODED, rtol=0)
    assert (ours - golden).norm() / golden.norm() < DECODED_RELATIVE_L2


@pytest.mark.parametrize(("name", "frames"), [("vae_v1", 1), ("vae_v1", 9), ("vae_v1", 17), ("vae_head", 9)])
def test_encoder_in_one_pass(vae: VAE, name: str, frames: int) -> None:
    io = arrays(name)
    moments = vae.moments(io[f"in.video_T{frames}"], rule="whole")
    torch.testing.assert_close(moments, io[f"out.moments_T{frames}"], atol=MOMENTS, rtol=0)


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_posterior(frames: int) -> None:
    io = arrays("vae_v1")
    posterior = Posterior.from_moments(io[f"out.moments_T{frames}"])
    noise = io[f"in.posterior_noise_T{frames}"]
    sample = posterior.mean + posterior.std * noise
    torch.testing.assert_close(sample, io[f"out.sample_T{frames}"], atol=SAMPLES, rtol=0)
    torch.testing.assert_close(posterior.kl().reshape(1), io[f"out.kl_T{frames}"], atol=KL, rtol=0)


@pytest.mark.parametrize("latent_frames", [1, 3, 5, 7])
def test_chunked_decode(vae: VAE, latent_frames: int) -> None:
    io = arrays("vae_v1")
    decoded = vae.decode(io[f"in.latent_L{latent_frames}"], rule="chunked")
    assert_decoded(decoded, io[f"out.decode_chunked_L{latent_frames}"])


def test_whole_decode(vae: VAE) -> None:
    io = arrays("vae_v1")
    assert_decoded(vae.decode(io["in.latent_L5"], rule="whole"), io["out.decode_single_pass_L5"])


@pytest.mark.parametrize("latent_frames", [4, 6])
def test_decode_of_the_15_engine(vae: VAE, latent_frames: int) -> None:
    io = arrays("vae_head")
    latents = vae.from_diffusion(io[f"in.scaled_latent_L{latent_frames}"])
    assert_decoded(vae.decode(latents, rule="sat15"), io[f"out.decode_engine_L{latent_frames}"])


def test_rules_are_not_the_same_function(vae: VAE) -> None:
    """The negative control: each rule under another rule's name misses its golden array by far."""
    v1, head = arrays("vae_v1"), arrays("vae_head")
    chunked = vae.moments(v1["in.video_T17"], rule="chunked")
    assert (chunked - v1["out.moments_T17"]).abs().max() > 0.1
    assert (vae.decode(v1["in.latent_L5"], rule="whole") - v1["out.decode_chunked_L5"]).abs().max() > 1
    latents = vae.from_diffusion(head["in.scaled_latent_L4"])
    published = vae.decode(latents[:, :, 1:], rule="chunked")  # 9 frames instead of 12
    assert (published - head["out.decode_engine_L4"][:, :, -9:]).abs().max() > 0.1
