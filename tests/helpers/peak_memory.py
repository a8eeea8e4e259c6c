"""A process that generates one video and prints how much memory each phase took beyond what it held before.

Run as `python peak_memory.py FOLDER REQUEST MEASURES`, the latter two as JSON. Prints, as one JSON object: `phases`,
the peak of each in bytes; `planned`, what the plan of the same run says of each. Linux alone: the peak is reset between
phases by writing to /proc/self/clear_refs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

import numpy as np
import torch

import cogworks
from cogworks.config.measures import Measures
from cogworks.pipelines.geometry import geometry
from cogworks.pipelines.planning.plan import plan_run
from cogworks.pipelines.planning.shape import RunShape
from cogworks.pipelines.progress import Progress
from cogworks.video import Video


def resident(line: str) -> int:
    """VmHWM, the peak, or VmRSS, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def warm_up(folder: str) -> None:
    """Load the code that a run needs: it is the process's, not the run's. What the small run held is given back."""
    pipeline = cogworks.load(folder, device="cpu", measures=Measures())
    pipeline.generate("a red circle", seed=0, height=32, width=32, num_frames=1, num_inference_steps=1)
    del pipeline
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    folder, request, measures = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    measures = Measures(**{**measures, "tile": tuple(measures["tile"]) if measures.get("tile") else None})
    torch.set_num_threads(1)
    video = request.pop("video_frames", None)
    if video is not None:
        frames = np.zeros((video, request["height"], request["width"], 3), np.uint8)
        request["video"] = Video(frames, 8.0)
    warm_up(folder)
    held = resident("VmRSS")
    pipeline = cogworks.load(folder, device="cpu", measures=measures)
    peaks: dict[str, int] = {}

    def listen(progress: Progress) -> None:
        if progress.phase == "load":
            return
        if progress.done == 0:
            reset_peak()
        elif progress.done == progress.total:
            peaks[progress.phase] = resident("VmHWM") - held

    pipeline.generate("a red circle", seed=0, on_progress=listen, **request)
    size = geometry(pipeline.variant, request["height"], request["width"], request["num_frames"])
    num = request.get("num_videos_per_prompt", 1)
    guided = request.get("guidance_scale", 6.0) > 1
    shape = RunShape(
        geometry=size,
        num_videos=num,
        num_prompts=1,
        guided=guided,
        steps=request["num_inference_steps"],
        source="none" if video is None else "video",
    )
    plan = plan_run(
        pipeline.variant,
        shape,
        device=torch.device("cpu"),
        dtype=torch.float32,
        text_dtype=torch.float32,
        budget=10**12,
        measures=measures,
        seconds=False,
    )
    planned = {phase.name: {"memory": phase.memory, "mapped": phase.mapped} for phase in plan.phases}
    print(json.dumps({"phases": peaks, "planned": planned}))


if __name__ == "__main__":
    main()
