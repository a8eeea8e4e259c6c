"""A process that runs one part of a run and prints how much memory that took, beside what the plan says.

Run as `python peak_memory.py PART HEIGHT WIDTH FRAMES [BUDGET]`, PART being "step" (one transformer pass, batch 2),
"decode" or "run" (a whole run of one step, planned by `plan_run`). Prints one JSON object in bytes: `measured`; `alive`
and `held` as planned, of the tensors and of the process. For Linux: the peak is reset by writing to
/proc/self/clear_refs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import cogworks
from cogworks.config.measures import Measures
from cogworks.config.variants import TINY
from cogworks.models.text_encoder import TextEncoder
from cogworks.models.tokenizer import Tokenizer
from cogworks.models.transformer import Transformer
from cogworks.models.vae import VAE
from cogworks.pipelines import codec
from cogworks.pipelines.geometry import Geometry, geometry
from cogworks.pipelines.planning.measure import measure_decoding, measure_step
from cogworks.pipelines.planning.plan import plan_run
from cogworks.pipelines.planning.shape import RunShape
from cogworks.pipelines.progress import ignore
from cogworks.weights.save import save_pretrained
from helpers.small_models import small_spiece

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


def settle() -> int:
    """Begin to measure: what is held now, with nothing that could be given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def measure_part(part: str, size: Geometry) -> dict[str, int]:
    """A part alone, its network and its input being there already; a small pass before loads the code."""
    state = torch.randn(1, 16, size.latent_frames, size.rows, size.columns)
    if part == "decode":
        vae = VAE(MEDIUM.vae)

        def work(state: torch.Tensor) -> None:
            codec.decode(vae, state, Measures(), lambda piece: None, ignore)

        planned = measure_decoding(MEDIUM, size, 1, None, torch.float32, CPU)
    else:
        transformer = Transformer(MEDIUM.transformer)

        def work(state: torch.Tensor) -> None:
            transformer(torch.cat([state, state]), torch.zeros(2, dtype=torch.int64), torch.randn(2, 64, 256))

        planned = measure_step(MEDIUM, size, 1, True, False, torch.float32, CPU)
    work(state[..., :4, :4].contiguous())
    held = settle()
    work(state)
    return {"measured": resident("VmHWM") - held, "alive": planned.alive, "held": planned.activations}


def measure_run(size: Geometry, budget: str | None) -> dict[str, int]:
    """A whole run from files, networks included; a small run before loads the code."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(
            f"{folder}/medium",
            MEDIUM,
            transformer=Transformer(MEDIUM.transformer),
            vae=VAE(MEDIUM.vae),
            text_encoder=TextEncoder(MEDIUM.text_encoder),
            tokenizer=Tokenizer(small_spiece()),
        )
        shape = RunShape(geometry=size, num_videos=1, num_prompts=1, guided=True, steps=1)
        plan = plan_run(
            MEDIUM,
            shape,
            device=CPU,
            dtype=torch.float32,
            text_dtype=torch.float32,
            budget=2**40,
            tidy=budget is not None,
            seconds=False,
        )

        def generate(height: int, width: int, frames: int) -> None:
            pipeline = cogworks.load(f"{folder}/medium", device="cpu", memory=budget)
            pipeline.generate(
                "a red circle", seed=0, height=height, width=width, num_frames=frames, num_inference_steps=1
            )

        generate(32, 32, 1)
        held = settle()
        generate(size.height, size.width, size.num_frames)
    return {"measured": resident("VmHWM") - held, "alive": plan.peak, "held": plan.peak}


@torch.no_grad()
def main() -> None:
    part, (height, width, frames) = sys.argv[1], map(int, sys.argv[2:5])
    budget = sys.argv[5] if len(sys.argv) > 5 else None
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = geometry(MEDIUM, height, width, frames)
    print(json.dumps(measure_run(size, budget) if part == "run" else measure_part(part, size)))


if __name__ == "__main__":
    main()
