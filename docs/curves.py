"""Measures what a setting does to a model of the Shapes world, and draws it: `python docs/curves.py steps tiny`.

- `steps`: prompts obeyed against the number of sampling steps, with two samplers, at the model's guidance;
- `guidance`: the same against the guidance, at the model's steps and sampler;
- `strength`: of video to video, what is obeyed and what stays against the strength (`strength.py`).

The prompts are those of the validation lists, never those of the evaluation. The figures go to benchmarks/results after
every point, and the same command goes on after the last one there; the picture goes to docs/images. It needs the extras
`eval` and `test`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import curve_pictures
import strength as video_to_video
import torch
from curve_results import RESULTS, Curve, Group, Kind, Place, Point, curve_file, rate_of, read_curve, write_curve
from machine import describe, versions
from results import now

import cogworks
from cogworks.config.variants import GenerationDefaults
from cogworks.data.captions import parse_caption
from cogworks.data.shapes import draw_scene, render_scene
from cogworks.evaluation.case import Case, Outcome
from cogworks.evaluation.judging import judge_all, making
from cogworks.evaluation.reports.report import ALL_RIGHT, GroupReport
from cogworks.evaluation.shapes.prompts import two_object_validation_prompts, validation_prompts
from cogworks.evaluation.shapes.suite import ONE_OBJECT, TWO_OBJECTS, caption_cases, judge
from cogworks.pipelines.generate import Pipeline
from cogworks.weights.fingerprint import weights_hash

IMAGES = Path(__file__).parent / "images"
SAMPLERS = ("ddim", "dpm")
PICTURES_SEED = 1_000_091  # of the scenes whose first frames an image-to-video model is given

Told = Callable[[int, int], None]
"""Hears how many cases of how many are done."""

Measure = Callable[[Pipeline, Place, int, int, Told], list[Outcome]]
"""(pipeline, setting, samples, batch, told) -> what came of the cases."""


@dataclass(frozen=True)
class Sweep:
    """A kind of curve: which settings, how many cases of each group, and how a setting is measured."""

    values: tuple[float, ...]
    samples: int
    places: Callable[[GenerationDefaults, Sequence[float]], list[Place]]
    measure: Measure


def place_of(defaults: GenerationDefaults, **others: int | float | str) -> Place:
    """The model's settings, but for `others`."""
    own: Place = {"sampler": defaults.sampler, "steps": defaults.steps, "guidance": defaults.guidance_scale}
    return own | others


def step_places(defaults: GenerationDefaults, values: Sequence[float]) -> list[Place]:
    return [place_of(defaults, sampler=sampler, steps=int(value)) for sampler in SAMPLERS for value in values]


def guidance_places(defaults: GenerationDefaults, values: Sequence[float]) -> list[Place]:
    return [place_of(defaults, guidance=value) for value in values]


def strength_places(defaults: GenerationDefaults, values: Sequence[float]) -> list[Place]:
    """Without those so weak that no step is left."""
    return [place_of(defaults, strength=value) for value in values if int(defaults.steps * value)]


def validation_cases(pipeline: Pipeline, samples: int) -> tuple[Case, ...]:
    """Up to `samples` cases of one object and of two; of an image-to-video model, of one, with its picture.

    All of them ask for combinations that training shows.
    """
    if not pipeline.variant.takes_image:
        ones = caption_cases(validation_prompts()[:samples], ONE_OBJECT)
        two = two_object_validation_prompts()[:samples]
        return (*ones, *caption_cases(two, TWO_OBJECTS, first_number=len(ones) + 1))
    sizes = pipeline.variant.defaults
    cases = []
    for number in range(1, samples + 1):
        scene = draw_scene(PICTURES_SEED, number, split="train", num_objects=1)
        image = render_scene(scene, sizes.height, sizes.width, num_frames=1, fps=1)[0]
        asked = parse_caption(scene.caption)
        cases.append(Case(number, ONE_OBJECT, scene.caption, seed=number, image=image, asked=asked))
    return tuple(cases)


def measure_prompts(pipeline: Pipeline, at: Place, samples: int, batch: int, told: Told) -> list[Outcome]:
    make = making(
        pipeline,
        sampler=str(at["sampler"]),
        num_inference_steps=int(at["steps"]),
        guidance_scale=float(at["guidance"]),
    )
    cases = validation_cases(pipeline, samples)
    return list(judge_all(make, cases, judge, batch=batch, on_progress=told))


def measure_strength(pipeline: Pipeline, at: Place, samples: int, batch: int, told: Told) -> list[Outcome]:
    """A batch is the edits of one source, whatever `batch` is."""
    outcomes: list[Outcome] = []
    for number in range(1, samples + 1):
        outcomes += video_to_video.edit_videos(pipeline, number, float(at["strength"]))
        told(len(outcomes), samples * len(video_to_video.WORDS))
    return outcomes


SWEEPS: dict[Kind, Sweep] = {
    "steps": Sweep((5, 8, 12, 16, 25, 50), 100, step_places, measure_prompts),
    "guidance": Sweep((1, 2, 3, 4, 6), 100, guidance_places, measure_prompts),
    "strength": Sweep(tuple(n / 10 for n in range(1, 11)), 50, strength_places, measure_strength),
}


def groups_of(outcomes: Sequence[Outcome], *, both: bool = False) -> dict[str, Group]:
    """Figures of each group; `both` names the share of cases with every mark so, and not "all four"."""
    names = dict.fromkeys(outcome.group for outcome in outcomes)
    groups = {}
    for name in names:
        report = GroupReport.of(outcome for outcome in outcomes if outcome.group == name)
        group = Group.of(report)
        if both:
            shares = {title: rate for title, rate in group.shares.items() if title != ALL_RIGHT}
            shares[video_to_video.BOTH] = rate_of(report.shares[ALL_RIGHT])
            group = Group(shares=shares, means=group.means)
        groups[name] = group
    return groups


def measure_point(pipeline: Pipeline, kind: Kind, at: Place, samples: int, batch: int, told: Told) -> Point:
    """Make and judge the videos of one setting."""
    wall, processor = time.perf_counter(), time.process_time()
    outcomes = SWEEPS[kind].measure(pipeline, at, samples, batch, told)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Point(
        at=at,
        groups=groups_of(outcomes, both=kind == "strength"),
        seconds=round(wall / len(outcomes), 3),
        cpu_seconds=round(processor / len(outcomes), 3),
    )


def measure(pipeline: Pipeline, kind: Kind, path: Path, values: Sequence[float], samples: int, batch: int) -> Curve:
    """Measure the points of a curve that `path` does not have yet, and write it after each.

    Other points that are in the file, or all where they are of other weights or another machine, go away with the
    first new one.
    """
    sizes = pipeline.variant.defaults
    curve = Curve(
        kind=kind,
        command=command_of(kind, pipeline.variant.name, values, samples),
        model=pipeline.variant.name,
        weights=weights_hash(pipeline.components.folder),
        samples=samples,
        size=(sizes.height, sizes.width, sizes.num_frames),
        threads=torch.get_num_threads(),
        machine=describe(),
        versions=versions(),
        date=now(),
    )
    places = SWEEPS[kind].places(sizes, values)
    if path.exists() and curve.goes_on_from(before := read_curve(path)):
        known = [point for at in places if (point := before.point(at)) is not None]
        drawn = before.model_copy(update={"points": tuple(known)})
    else:
        known, drawn = [], curve
    for at in places:
        if not any(point.at == at for point in known):
            known.append(measure_point(pipeline, kind, at, samples, batch, partial(_tell, at)))
            in_order = sorted(known, key=lambda point: places.index(point.at))
            drawn = curve.model_copy(update={"points": tuple(in_order), "date": now()})
            write_curve(drawn, path)
    return drawn


def command_of(kind: Kind, model: str, values: Sequence[float], samples: int) -> str:
    """What measures these points."""
    words = ["python docs/curves.py", kind, model]
    if tuple(values) != SWEEPS[kind].values:
        words.append(f"--at {','.join(f'{value:g}' for value in values)}")
    if samples != SWEEPS[kind].samples:
        words.append(f"--samples {samples}")
    return " ".join(words)


def _tell(at: Place, done: int, total: int) -> None:
    setting = ", ".join(f"{name} {value}" for name, value in at.items())
    print(f"\r{setting}: {done} of {total} videos", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    kind: Kind = asked.kind
    pipeline = cogworks.load(asked.model)
    pipeline.load_networks()  # before anything is timed
    sweep, name = SWEEPS[kind], pipeline.variant.name
    path = curve_file(kind, name, asked.into or RESULTS)
    values, samples = asked.at or sweep.values, asked.samples or sweep.samples
    curve = measure(pipeline, kind, path, values, samples, asked.batch)
    picture = curve_pictures.draw(curve, (asked.into or IMAGES) / f"{kind}-{name}.png")
    print(path, picture, sep="\n")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python docs/curves.py", description="Measure what a setting does.")
    found.add_argument("kind", choices=list(SWEEPS))
    found.add_argument("model", help="bundled name, folder or Hugging Face id")
    found.add_argument("--at", type=_numbers, help="settings, as 5,8,12, instead of those of the kind")
    found.add_argument("--samples", type=int, help="cases of each group; sources for strength")
    found.add_argument("--batch", type=int, default=8, help="videos made at once, 8 if not given")
    found.add_argument("--into", type=Path, help="folder for both files, instead of those of the repository")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


if __name__ == "__main__":
    main()
