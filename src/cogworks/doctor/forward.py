"""A small pass through each part, one part in memory at a time, and a clip through the VAE and back.

Letters: B batch, C latent channels, T frames, H W pixels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cogworks.config.variants import Variant
from cogworks.data.shapes import Scene, SceneObject, render_scene
from cogworks.doctor.findings import Finding, in_bytes
from cogworks.doctor.hardware import free_memory, quiet_compute_dtype
from cogworks.errors import CogworksError
from cogworks.evaluation.figures.metrics import psnr
from cogworks.models.vae import VAE
from cogworks.nn.embeddings import LearnedPositions
from cogworks.rng import generator_for
from cogworks.video import to_frames, to_pixels
from cogworks.weights.components import Component, empty_text_encoder, empty_transformer, empty_vae
from cogworks.weights.load import load_text_encoder, load_tokenizer, load_transformer, load_vae
from cogworks.weights.source import ModelFolder

GOOD_PSNR, RANDOM_PSNR = 25.0, 12.0  # dB: what trained weights reach, and what random ones stay under
WORKING_BYTES = 500_000_000  # what a small pass needs beside the weights
# On black: where there is nothing but gray, as random weights give, little is right.
CLIP = Scene((SceneObject("circle", "red", "right", "large", (0.0, 0.0), 16.0),), "black", "")
CLIP_SIDE, CLIP_FPS = 64, 8.0
TIMESTEP, OFS = 500, 2.0
PROMPT = "a red circle moves right"

_BUG = "If the findings above are clean, report it with the output of cogworks doctor MODEL --json."


@dataclass(frozen=True)
class Trial:
    """What is to be tried, and on what.

    Attributes:
        folder: the model.
        variant: what it is.
        device: where to compute.
        components: what the files of each sound part hold; parts that are not in it are not tried.
    """

    folder: ModelFolder
    variant: Variant
    device: torch.device
    components: dict[str, Component]


@torch.no_grad()
def check_forward(trial: Trial, tell: Callable[[str], None]) -> list[Finding]:
    """Pass something small through each part; its output must be finite.

    Args:
        tell: called with the name of each part before it is loaded.
    """
    findings = []
    text_emb: Tensor | None = None
    for part, run in (("text_encoder", _text_encoder), ("transformer", _transformer), ("vae", _vae)):
        if part not in trial.components:
            findings.append(Finding("note", part, "Not tried: its weights do not fit or are not there."))
            continue
        dtype, why_not = _dtype(trial, part)
        if dtype is None:
            findings.append(Finding("note", part, why_not))
            continue
        tell(part)
        try:
            found, given = run(trial, dtype, text_emb)
            text_emb = given if part == "text_encoder" else text_emb
        except (CogworksError, RuntimeError, ValueError, IndexError, MemoryError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            found = Finding("problem", part, f"A small pass fails: {why}.", _BUG)
        findings.append(found)
        gc.collect()
    return findings


def _text_encoder(trial: Trial, dtype: torch.dtype, _: Tensor | None) -> tuple[Finding, Tensor]:
    encoder = load_text_encoder(trial.folder, trial.variant, dtype=dtype, device=trial.device)
    ids = load_tokenizer(trial.folder).encode([PROMPT], trial.variant.transformer.text_tokens)
    output = encoder(ids.to(trial.device))
    return _finite("text_encoder", output, dtype), output


def _transformer(trial: Trial, dtype: torch.dtype, text_emb: Tensor | None) -> tuple[Finding, None]:
    config = trial.variant.transformer
    network = load_transformer(trial.folder, trial.variant, dtype=dtype, device=trial.device)
    generator = generator_for("doctor", "transformer")
    patch = config.patch_size
    latents = torch.randn(1, config.in_channels, patch[0], 2 * patch[1], 2 * patch[2], generator=generator)
    if text_emb is None:
        text_emb = torch.randn(1, config.text_tokens, config.text_width, generator=generator)
    positions = network.position_table
    if isinstance(positions, LearnedPositions):  # it would take the training size alone, which is not small
        tokens = config.text_tokens + 4
        positions.table = nn.Parameter(positions.table[:, :tokens], requires_grad=False)
    ofs = None if config.ofs_width is None else torch.full((1,), OFS, device=trial.device)
    latents, text_emb = latents.to(trial.device, dtype), text_emb.to(trial.device, dtype)
    output = network(latents, torch.tensor([TIMESTEP], device=trial.device), text_emb, ofs)
    return _finite("transformer", output, dtype), None


def _vae(trial: Trial, dtype: torch.dtype, _: Tensor | None) -> tuple[Finding, None]:
    vae = load_vae(trial.folder, trial.variant, dtype=dtype, device=trial.device)
    clip = _clip(vae)
    latents = vae.encode(to_pixels(clip).to(trial.device, dtype)).mean
    decoded = vae.decode(latents)
    if not (latents.isfinite().all() and decoded.isfinite().all()):
        return _finite("vae", decoded if latents.isfinite().all() else latents, dtype), None
    likeness = psnr(clip, to_frames(decoded.float()))
    values: dict[str, object] = {"psnr": round(likeness, 2), "dtype": str(dtype).removeprefix("torch.")}
    text = f"A rendered clip comes back with a PSNR of {likeness:.1f} dB"
    if likeness >= GOOD_PSNR:
        return Finding("ok", "vae", f"{text}.", values=values), None
    if likeness < RANDOM_PSNR:
        text, advice = f"{text}: these look like random weights.", "Take the VAE of a trained model."
    else:
        text = f"{text}, where trained weights reach {GOOD_PSNR:g} dB."
        advice = "Check scaling and settings of the VAE, and whether its training was finished."
    return Finding("warning", "vae", text, advice, values), None


def _clip(vae: VAE) -> np.ndarray:
    """A clip (T, H, W, 3) of a length that passes in two pieces."""
    stride = vae.config.temporal_stride
    side = -(-CLIP_SIDE // vae.config.spatial_stride) * vae.config.spatial_stride
    return render_scene(CLIP, side, side, 4 * stride + 1, CLIP_FPS)


def _finite(part: str, output: Tensor, dtype: torch.dtype) -> Finding:
    name = str(dtype).removeprefix("torch.")
    values: dict[str, object] = {"dtype": name, "shape": list(output.shape)}
    bad = output.numel() - int(output.isfinite().sum())
    if bad:
        text = f"A small pass in {name} gives {bad:,} of {output.numel():,} numbers that are NaN or infinity."
        advice = (
            "Try --dtype float32; if that does not help, the weights are damaged." if dtype != torch.float32 else _BUG
        )
        return Finding("problem", part, text, advice, values)
    values["std"] = round(float(output.float().std()), 4)
    return Finding(
        "ok",
        part,
        f"A small pass in {name} gives finite numbers of standard deviation {values['std']:g}.",
        values=values,
    )


_EMPTY = {"text_encoder": empty_text_encoder, "transformer": empty_transformer, "vae": empty_vae}


def _dtype(trial: Trial, part: str) -> tuple[torch.dtype | None, str]:
    """The dtype to try a part in: what a load would take, else what is stored, if memory holds it."""
    tensors = trial.components[part].tensors(_EMPTY[part](trial.variant))
    published = getattr(torch, trial.variant.dtype)
    stored = max((tensor for tensor in tensors.values()), key=lambda tensor: tensor.num_bytes).dtype
    usual = quiet_compute_dtype(published, trial.device)
    numbers = sum(tensor.shape.numel() for tensor in tensors.values())
    free = free_memory(trial.device)
    choices: Sequence[torch.dtype] = (usual, stored) if stored.itemsize in (2, 4) else (usual,)
    for dtype in choices:
        if numbers * dtype.itemsize + WORKING_BYTES <= free:
            return dtype, ""
    needed = min(numbers * dtype.itemsize for dtype in choices) + WORKING_BYTES
    return None, f"Not tried: it needs {in_bytes(needed)} of memory, and {in_bytes(free)} are free."
