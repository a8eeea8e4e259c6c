"""Starts beside diffusers': importing and loading, a command from nothing to its video, a prompt seen before."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fresh
from measure import Settings, make_case
from results import Case, Mark

import cogworks
from cogworks.weights.source import resolve

LOADING, COMMAND, SEEN = Mark(at_most=0.5), Mark(at_most=8.0), Mark(at_most=0.0)
PROMPT = "a red circle moves right"
# What a first `generate` needs is in memory at the end: all networks on both sides.
OURS = """
import sys, cogworks
pipe = cogworks.load(sys.argv[1], device="cpu")
pipe.load_networks()
pipe.components.networks.text_encoder.get()
"""
THEIRS = """
import sys
from diffusers import CogVideoXPipeline
CogVideoXPipeline.from_pretrained(sys.argv[1])
"""


def cases(settings: Settings) -> Iterator[Case]:
    """All cases; files are in the system's cache, because each command is run before."""
    yield loading(settings)
    yield command(settings)
    yield seen_before(settings)


def loading(settings: Settings) -> Case:
    """Seconds of processor time until the bundled model is in memory, each time in a new process."""
    folder = str(resolve("tiny").path)
    ours, theirs = ([sys.executable, "-c", code, folder] for code in (OURS, THEIRS))
    spent: dict[str, list[fresh.Spent]] = {OURS: [], THEIRS: []}
    for command in (ours, theirs):  # files come into the system's cache
        fresh.spend(command, threads=settings.threads, quiet=True)
    for _ in range(1 if settings.quick else settings.few):
        for key, command in ((OURS, ours), (THEIRS, theirs), (THEIRS, theirs), (OURS, ours)):
            spent[key].append(fresh.spend(command, threads=settings.threads, quiet=True))
    return make_case(
        "load-tiny",
        "import, and `tiny` with all its networks in memory",
        [each.cpu for each in spent[OURS]],
        [each.cpu for each in spent[THEIRS]],
        unit="CPU s",
        figure="ours / theirs",
        mark=LOADING,
        allocator="default",
        dtype="as loaded",
        notes={f"wall seconds, {name}": min(each.wall for each in spent[key]) for name, key in _SIDES},
    )


_SIDES = (("cogworks", OURS), ("diffusers", THEIRS))


def command(settings: Settings, *options: str) -> Case:
    """Seconds on the wall of `cogworks generate` with the bundled model, until the mp4 is finished.

    The user's folders are empty ones: nothing is remembered from one run to the next.
    """
    spent: list[fresh.Spent] = []
    for _ in range(1 + settings.rounds):
        with tempfile.TemporaryDirectory() as home:
            video = Path(home) / "video.mp4"
            asked = [sys.executable, "-m", "cogworks", "generate", PROMPT, "--seed", "7", "-o", str(video), *options]
            places = {name: home for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "COGWORKS_CACHE")}
            spent.append(fresh.spend(asked, threads=settings.threads, cwd=Path(home), quiet=True, environment=places))
            if not video.stat().st_size:
                raise fresh.Failed(f"{' '.join(asked)} left an empty file")
    del spent[0]  # files come into the system's cache
    return make_case(
        "generate-tiny",
        "`cogworks generate` with `tiny`, from the command to the finished mp4",
        [each.wall for each in spent],
        figure="ours",
        rival="",
        mark=COMMAND,
        allocator="default",
        dtype="as loaded",
        seed=7,
        notes={"CPU seconds": min(each.cpu for each in spent)},
    )


def seen_before(settings: Settings) -> Case:
    """Text encoders that a process loads for a prompt that another process has encoded: counted, not timed."""
    with tempfile.TemporaryDirectory() as cache:
        places = {"COGWORKS_CACHE": cache, "COGWORKS_PROMPT_CACHE": "100MB"}
        first, second = (
            fresh.call("bench_startup", "encoders_loaded", {"seed": seed}, threads=settings.threads, **places)
            for seed in (settings.seed, settings.seed + 1)
        )
    if first != 1:
        raise AssertionError(
            f"the first process loaded {first} text encoders: it had seen the prompt, or counts wrongly"
        )
    return make_case(
        "seen-before",
        "text encoders loaded for a prompt that another process has seen",
        [float(second)],
        unit="count",
        figure="ours",
        rival="",
        mark=SEEN,
        allocator="default",
        dtype="as loaded",
        seed=settings.seed,
    )


def encoders_loaded(seed: int) -> int:
    """In a process of its own: a run of one step, and whether the text encoder was read for it."""
    pipe = cogworks.load("tiny", device="cpu")
    pipe.generate(PROMPT, seed=seed, num_inference_steps=1, num_frames=1, output_type="latent")
    return int(pipe.components.networks.text_encoder.loaded)
