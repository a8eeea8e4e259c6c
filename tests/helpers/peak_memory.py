"""A process that runs one part of a run and prints how much memory that took, beside what the plan says.

Run as `python peak_memory.py PART HEIGHT WIDTH FRAMES [BUDGET]`, PART being "step" (one transformer pass, batch 2),
"decode", "strips8" (likewise, in 8 strips; any number), "run" (a whole run of one step), "video" (likewise, from a
video) or "tiny" (a run of the bundled model).
Prints one JSON object in bytes: `planned` and `measured`; of a whole run `strips` as well, how many its plan has, and
`phases`, what is planned and measured for each; what comes before the steps counts as one, the larger of its plans.

Of a whole run, `measured` is what docs/hardware.md says a plan counts on a CPU: by how much the peak of the process's
resident memory exceeds what it held when the plan was made. Nothing has run before, so libraries that are loaded and
kernels that are prepared on the way are in it. Of a part, these are left out by a small pass before.

For Linux: the peak is reset by writing to /proc/self/clear_refs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import cogworks
from cogworks.config.measures import Measures
from cogworks.config.variants import TINY
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.pipelines import codec
from cogworks.pipelines.geometry import Geometry, geometry
from cogworks.pipelines.planning.measure import measure_decoding, measure_steps
from cogworks.pipelines.planning.shape import RunShape, SourceKind
from cogworks.pipelines.progress import Progress, ignore
from helpers.random_models import save_random

MEDIUM = replace(
    TINY,
    name="medium",
    transformer=replace(
        TINY.transformer,
        num_layers=4,
        num_heads=8,
        head_width=64,
        in_channels=16,
        out_channels=16,
        text_width=256,
        text_tokens=64,
    ),
    vae=replace(TINY.vae, widths=(32, 64, 64, 128), latent_channels=16, layers_per_block=2, norm_groups=8),
    text_encoder=replace(TINY.text_encoder, width=256, head_width=32, num_heads=8, mlp_width=512),
)
CPU = torch.device("cpu")


def resident(line: str) -> int:
    """VmHWM, the peak, or VmRSS, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) * 1024


def mapped_bytes(path: Path) -> int:
    """How much of a file is in this process's memory."""
    maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    return sum(int(text.split("\nRss:")[1].split()[0]) * 1024 for text in maps if str(path) in text)


def settle() -> int:
    """Begin to measure: what is held now, with nothing that could be given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear_peak()
    return resident("VmRSS")


def clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure_part(part: str, size: Geometry) -> dict[str, object]:
    """A part alone, its network and its input being there already; a small pass before loads the code."""
    state = torch.randn(1, 16, size.latent_frames, size.rows, size.columns)
    if part == "decode" or part.startswith("strips"):
        vae, measures = VAE(MEDIUM.vae), Measures(strips=int(part.removeprefix("strips")) if part != "decode" else 1)

        def work(state: torch.Tensor) -> None:
            codec.decode(vae, state, measures, lambda piece: None, ignore)

        planned = measure_decoding(MEDIUM, size, 1, measures.strips, None, torch.float32, CPU)
    else:
        transformer = Transformer(MEDIUM.transformer)

        def work(state: torch.Tensor) -> None:
            text_tokens = transformer.patch_embed.text_proj(torch.randn(2, 64, 256))
            transformer.predict(state, text_tokens, transformer.modulation_table(torch.tensor([500.0])))

        planned = measure_steps(MEDIUM, size, 1, True, False, 1, None, torch.float32, CPU)
    work(state[..., :4, :4].contiguous())
    held = settle()
    work(state)
    return {"planned": planned.alive, "measured": resident("VmHWM") - held}


class PhasePeaks:
    """Listens to a run, and notes the peak of each phase above what was held before. What is read belongs to what it
    is read for."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.held = resident("VmRSS")
        clear_peak()

    def __call__(self, progress: Progress) -> None:
        if progress.phase in ("encode", "steps") and progress.done == progress.total:
            self.end(progress.phase)

    def end(self, phase: str) -> None:
        self.peaks[phase] = resident("VmHWM") - self.held
        clear_peak()


def measure_run(size: Geometry, model: str, budget: str | None, *, from_video: bool = False) -> dict[str, object]:
    """A whole run from files, as the first thing that a process does after its plan."""
    source: SourceKind = "video" if from_video else "none"
    frames = np.zeros((size.num_frames, size.height, size.width, 3), np.uint8)
    frames += 100  # there before the run, so that the run does not hold it; a plan counts it
    video = cogworks.Video(frames, 8) if from_video else None
    pipeline = cogworks.load(model, device="cpu", memory=budget)
    plan = pipeline.plan(RunShape(geometry=size, num_videos=1, num_prompts=1, guided=True, steps=1, source=source))
    peaks = PhasePeaks()
    pipeline.generate(
        "a red circle",
        video=video,
        strength=1.0,
        seed=0,
        height=size.height,
        width=size.width,
        num_frames=size.num_frames,
        num_inference_steps=1,
        on_progress=peaks,
    )
    peaks.end("decode")
    *before, steps, decode = (phase.memory for phase in plan.phases)
    planned = {"encode": max(before), "steps": steps, "decode": decode}
    phases = {name: (planned[name], peaks.peaks[name]) for name in planned}
    measured = max(peaks.peaks.values())
    return {"planned": plan.peak, "measured": measured, "strips": plan.measures.strips, "phases": phases}


@torch.no_grad()
def main() -> None:
    os.environ["COGWORKS_PROMPT_CACHE"] = "0"  # a prompt that is remembered would not be read
    part = sys.argv[1]
    torch.manual_seed(0)
    if part == "save":
        save_random(sys.argv[2], MEDIUM)
        return
    height, width, frames = map(int, sys.argv[2:5])
    budget = sys.argv[5] if len(sys.argv) > 5 else None
    if part == "tiny":
        found = measure_run(geometry(TINY, height, width, frames), "tiny", budget)
    elif part in ("run", "video"):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "save", folder], check=True)  # leaves nothing in this process
            found = measure_run(geometry(MEDIUM, height, width, frames), folder, budget, from_video=part == "video")
    else:
        found = measure_part(part, geometry(MEDIUM, height, width, frames))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
