"""The Shapes world: captioned clips whose truth can be read from their pixels.

One or two flat, anti-aliased objects move on a plain background. A clip is a function of continuous time, and its
geometry is given in *units*, 1/64 of the shorter side, so that every size, length and frame rate samples the same
scene. Coordinates are relative to the middle of the frame: x to the right, y down.

Letters: T frames, H height, W width; t seconds; r radius.

Motions, for a whole clip of any length:
- left, right, up, down: 11 units/s, through the object's centre at t = 1 s (so the default clip of 17 frames at 8 fps,
  t from 0 to 2 s, is centred). An object that has left the frame comes back on the opposite side and goes on.
- orbits: clockwise as seen on screen, one turn in 2.25 s.
- grows, shrinks: the radius goes in a straight line from 0.62 to 1.25 of its nominal value (or back) in the first
  two seconds, and then stays.

Two objects are smaller and each keeps to its own half for the first two seconds, which shortens what moves across it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogworks.data.captions import TEMPLATES, ObjectWords, canonical_caption, write_caption
from cogworks.data.shape_outlines import REACH, SIGNED_DISTANCE
from cogworks.data.shape_words import (
    ALL_SHAPES,
    BACKGROUND_COLOURS,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    NOVEL_SHAPES,
    SHAPES,
    Triple,
    all_triples,
    backgrounds_for,
    distinguishable,
    held_out_triples,
    is_held_out,
    novel_triples,
    train_triples,
)
from cogworks.rng import derive_seed

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "MOTIONS",
    "NOVEL_SHAPES",
    "SHAPES",
    "Scene",
    "SceneObject",
    "Split",
    "canonical_caption",
    "distinguishable",
    "draw_scene",
    "draw_triples",
    "held_out_triples",
    "placement",
    "render",
    "render_scene",
]

Split = Literal["train", "held_out", "any"]
FloatArray = NDArray[np.float32]

UNITS = 64.0  # the shorter side of the frame
RADIUS = {"small": 12.0, "large": 16.0}
RADIUS_OF_TWO = {"small": 9.0, "large": 10.0}
JITTER = 4.0
TRAVEL = 11.0  # units/s
TRAVEL_OF_TWO = 4.5  # across the half
ORBIT_RADIUS = 12.0
ORBIT_RADIUS_OF_TWO = 4.5
ORBIT_SECONDS = 2.25
SMALLEST, LARGEST = 0.62, 1.25  # of the nominal radius, when growing or shrinking
GROWTH_SECONDS = 2.0
CENTRED_AT_SECONDS = 1.0

TWO_OBJECTS_PROBABILITY = 0.15
SIZE_WORD_PROBABILITY = 0.35

DIRECTION = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class SceneObject:
    """One object. `centre`, `radius`, `orbit_radius` are in units, `speed` in units/s, `phase` in radians."""

    shape: str
    colour: str
    motion: str
    size: str
    centre: tuple[float, float]
    radius: float
    speed: float = TRAVEL
    orbit_radius: float = ORBIT_RADIUS
    phase: float = 0.0

    @property
    def triple(self) -> Triple:
        return (self.shape, self.colour, self.motion)


@dataclass(frozen=True)
class Scene:
    """One or two objects (the later is drawn over the earlier), a background and a caption that is true of them."""

    objects: tuple[SceneObject, ...]
    background: str
    caption: str

    @property
    def held_out(self) -> bool:
        """Whether any of the objects is a combination that training never shows."""
        return any(is_held_out(item.triple) for item in self.objects)


def draw_scene(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    num_objects: int | None = None,
    two_objects: float = TWO_OBJECTS_PROBABILITY,
    shape: str | None = None,
) -> Scene:
    """The scene with number `index` of the endless list keyed by `seed`; no scene depends on another.

    Args:
        seed, index: any integers.
        split: "train" never shows a held-out triple, "held_out" always shows one, "any" draws from all.
        num_objects: 1 or 2; None draws 2 with the probability `two_objects`.
        shape: that one of the objects has. None draws any but a novel one; each shape asked for has a list of its own.

    Raises:
        ValueError: unknown `split`, `num_objects` or `shape`.
    """
    rng, triples = _begin(seed, index, split, num_objects, two_objects, shape)
    objects = (_place_one(rng, triples[0]),) if len(triples) == 1 else _place_two(rng, triples)
    background = str(rng.choice(backgrounds_for(*(triple[1] for triple in triples))))
    says_size = len(objects) == 1 and rng.random() < SIZE_WORD_PROBABILITY
    words = [ObjectWords(*item.triple, size=item.size if says_size else None) for item in objects]
    return Scene(objects, background, write_caption(words, background, TEMPLATES[rng.integers(len(TEMPLATES))]))


def draw_triples(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    num_objects: int | None = None,
    two_objects: float = TWO_OBJECTS_PROBABILITY,
    shape: str | None = None,
) -> tuple[Triple, ...]:
    """The triples of the scene that `draw_scene` gives, in the order of its objects, in a third of the time."""
    _, triples = _begin(seed, index, split, num_objects, two_objects, shape)
    return tuple(triples)


def render_scene(scene: Scene, height: int, width: int, num_frames: int, fps: float) -> NDArray[np.uint8]:
    """Frames at t = 0, 1/fps, 2/fps, ...

    Returns:
        (T, H, W, 3) RGB in 0..255.

    Raises:
        ValueError: a size, count or rate that is not positive.
    """
    if min(height, width, num_frames) < 1 or not fps > 0:
        raise ValueError(f"size, frames and fps must be positive, got {height}x{width}, {num_frames}, {fps}")
    seconds = np.arange(num_frames, dtype=np.float64) / fps
    # Channel by channel, because NumPy is slow where the innermost axis has three elements.
    channels = list(_background(scene.background, height).T[:, None, :, None])  # three of (1, H, 1)
    for item in scene.objects:
        x, y, radius = placement(item, seconds, height, width)
        columns = np.arange(0.5, width)[None] - x[:, None]  # (T, W)
        rows = np.arange(0.5, height)[None] - y[:, None]  # (T, H)
        distance = SIGNED_DISTANCE[item.shape](
            columns[:, None, :].astype(np.float32),
            rows[:, :, None].astype(np.float32),
            radius[:, None, None].astype(np.float32),
        )
        alpha = np.clip(0.5 - distance, 0, 1)  # (T, H, W)
        colour = np.asarray(COLOURS[item.colour], np.float32)
        channels = [behind + alpha * (level - behind) for behind, level in zip(channels, colour, strict=True)]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for channel, values in enumerate(channels):
        frames[..., channel] = values + np.float32(0.5)
    return frames


def render(
    seed: int,
    index: int,
    size: int | tuple[int, int],
    frames: int,
    fps: float,
    *,
    split: Split = "train",
    num_objects: int | None = None,
    two_objects: float = TWO_OBJECTS_PROBABILITY,
) -> tuple[NDArray[np.uint8], str]:
    """Draw and render scene (seed, index).

    Args:
        size: side of a square frame, or (height, width).
        frames: number of frames.

    Returns:
        frames (T, H, W, 3) uint8, and their caption.
    """
    height, width = (size, size) if isinstance(size, int) else size
    scene = draw_scene(seed, index, split=split, num_objects=num_objects, two_objects=two_objects)
    return render_scene(scene, height, width, frames, fps), scene.caption


def placement(
    item: SceneObject, seconds: NDArray[np.float64], height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre x, y from the upper left corner and radius of an object over time, in pixels, each (T,)."""
    scale = min(height, width) / UNITS
    x, y = _path(item, seconds, width / scale, height / scale)
    return x * scale + width / 2, y * scale + height / 2, item.radius * _growth(item.motion, seconds) * scale


def _begin(
    seed: int, index: int, split: Split, num_objects: int | None, two_objects: float, shape: str | None
) -> tuple[np.random.Generator, list[Triple]]:
    """What a scene shows, and the numbers that its places are drawn from."""
    if split not in ("train", "held_out", "any") or num_objects not in (None, 1, 2):
        raise ValueError(
            f"split must be train, held_out or any and num_objects 1, 2 or None, got {split!r} and {num_objects!r}"
        )
    if shape not in (None, *ALL_SHAPES):
        raise ValueError(f"shape must be one of {', '.join(ALL_SHAPES)}, or None for any, got {shape!r}")
    asked = () if shape is None else (shape,)
    rng = np.random.default_rng(derive_seed("shapes", seed, index, split, num_objects or 0, *asked))
    if num_objects is None:
        num_objects = 2 if rng.random() < two_objects else 1
    return rng, _draw_triples(rng, split, num_objects, shape)


@cache
def _triples_for(split: Split, shape: str | None) -> tuple[Triple, ...]:
    train, held_out, both = train_triples(), tuple(sorted(held_out_triples())), all_triples()
    if shape in NOVEL_SHAPES:
        train, held_out = novel_triples(shape)
        both = train + held_out
    chosen = {"train": train, "held_out": held_out, "any": both}[split]
    return tuple(triple for triple in chosen if shape in (None, triple[0]))


def _draw_triples(rng: np.random.Generator, split: Split, num_objects: int, shape: str | None) -> list[Triple]:
    first_from = _triples_for(split, shape)
    triples = [first_from[rng.integers(len(first_from))]]
    if num_objects == 2:
        # Two colours, so that the objects can be told apart wherever they are.
        second_from = train_triples() if split == "train" else all_triples()
        others = [triple for triple in second_from if triple[1] != triples[0][1]]
        triples.append(others[rng.integers(len(others))])
        if rng.random() < 0.5:
            triples.reverse()
    return triples


def _place_one(rng: np.random.Generator, triple: Triple) -> SceneObject:
    size = "small" if rng.random() < 0.5 else "large"
    x, y, turn = rng.uniform(-1, 1, 3)
    return SceneObject(*triple, size, (x * JITTER, y * JITTER), RADIUS[size], phase=turn * np.pi)


def _place_two(rng: np.random.Generator, triples: list[Triple]) -> tuple[SceneObject, ...]:
    side_by_side = rng.random() < 0.5
    objects = []
    for triple, half in zip(triples, (-1, 1), strict=True):
        size = "small" if rng.random() < 0.5 else "large"
        along, across, turn = rng.uniform(-1, 1, 3)
        middle, offset = half * UNITS / 4 + 0.5 * across, JITTER * along
        crosses = triple[2] in (("left", "right") if side_by_side else ("up", "down"))
        objects.append(
            SceneObject(
                *triple,
                size,
                (middle, offset) if side_by_side else (offset, middle),
                RADIUS_OF_TWO[size],
                speed=TRAVEL_OF_TWO if crosses else TRAVEL,
                orbit_radius=ORBIT_RADIUS_OF_TWO,
                phase=turn * np.pi,
            )
        )
    return tuple(objects)


def _path(
    item: SceneObject, seconds: NDArray[np.float64], width: float, height: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The object's centre over time, in units; `width` and `height` of the frame are in units."""
    x, y = (np.full_like(seconds, value) for value in item.centre)
    if item.motion == "orbits":
        angle = item.phase + 2 * np.pi * seconds / ORBIT_SECONDS  # y points down: this turns clockwise
        return x + item.orbit_radius * np.cos(angle), y + item.orbit_radius * np.sin(angle)
    if item.motion in DIRECTION:
        dx, dy = DIRECTION[item.motion]
        travelled = item.speed * (seconds - CENTRED_AT_SECONDS)
        margin = REACH * item.radius
        x = _wrap(x + dx * travelled, width / 2 + margin) if dx else x
        y = _wrap(y + dy * travelled, height / 2 + margin) if dy else y
    return x, y


def _wrap(position: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    return (position + limit) % (2 * limit) - limit


def _growth(motion: str, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    if motion not in ("grows", "shrinks"):
        return np.ones_like(seconds)
    share = np.clip(seconds / GROWTH_SECONDS, 0, 1)
    return SMALLEST + (LARGEST - SMALLEST) * (share if motion == "grows" else 1 - share)


def _background(name: str, height: int) -> FloatArray:
    top, bottom = np.asarray(BACKGROUND_COLOURS[name], np.float32)
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return top + share * (bottom - top)  # (H, 3)
