"""Reads the truth of a Shapes clip from its pixels alone: shape, colour, motion and background.

It knows the palette and the outlines of the Shapes world, and nothing of how a clip was made. It is meant to hold for
clips that are somewhat blurred or noisy, as a decoder makes them. What fits no word of the world is read as None.

1. Background: the median of the left and right edges over time, one colour for each row, against the five models.
2. Colour: the palette's vote over pixels that are a local plateau of contrast, so that mixed edge pixels do not vote.
3. Coverage: how far each pixel lies on the way from the background to that colour, in [0, 1].
4. Motion: the path of the coverage's centre of mass, and its area over time.
5. Shape: an outline of each kind is laid over the coverage with the same area and centre of mass; the best overlap.

Letters: T frames, H height, W width. Lengths are in units, 1/64 of the shorter side, as in `cogworks.data.shapes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cogworks.data.shape_outlines import SIGNED_DISTANCE
from cogworks.data.shape_words import ALL_SHAPES, BACKGROUND_COLOURS, COLOURS
from cogworks.video.frames import check_frames

FloatArray = NDArray[np.float32]

ATTRIBUTES = ("shape", "colour", "motion", "background")  # what is read of a clip

UNITS = 64.0
EDGE_SHARE = 1 / 16  # of the width, on either side, shows the background
MAX_BACKGROUND_ERROR = 45.0  # 8-bit RGB distance; the two nearest models, black and navy, are 74 apart
MAX_COLOUR_ERROR = 90.0
MIN_CONTRAST = 45.0  # a pixel nearer to the background shows no object
PLATEAU = 0.9  # of the strongest contrast next to it
MIN_COVERAGE = 0.12  # less is noise
MIN_AREA = 20.0  # square units; the smallest object of the world covers 44
MIN_PRESENT = 0.6  # of the frames show the object
MIN_TRAVEL, MAX_REST = 6.0, 4.5  # units over the clip: more moves, less is still
MAX_SLANT = 0.5  # travel across, as a share of travel along
MIN_ORBIT = 1.5  # units, spread of the path across its main direction
MIN_GROWTH = 0.25  # of the logarithm of the radius, first fifth of the clip against the last
MIN_OVERLAP = 0.5  # of a bar three times as long as wide with any outline: 0.41
MAX_CUT = 0.5  # pixels of coverage on the frame's rim: the object is whole


@dataclass(frozen=True)
class ObjectReading:
    """One object as seen; None is what fits no word."""

    shape: str | None
    colour: str | None
    motion: str | None


@dataclass(frozen=True)
class Reading:
    """A clip with one object as seen; None is what fits no word."""

    shape: str | None
    colour: str | None
    motion: str | None
    background: str | None


def read(frames: NDArray[np.uint8]) -> Reading:
    """Read a clip with one object.

    Args:
        frames: (T, H, W, 3) uint8, of any size; motion is judged over the whole clip.

    Raises:
        VideoError: `frames` is not (T, H, W, 3) uint8.
    """
    (seen,), background = read_objects(frames, 1)
    return Reading(seen.shape, seen.colour, seen.motion, background)


def read_objects(frames: NDArray[np.uint8], num_objects: int) -> tuple[list[ObjectReading], str | None]:
    """Read a clip with `num_objects` objects of different colours: the objects, the largest first, and the background.

    An object that is not there has None for every word. Two objects of radius 9 in 64x64 pixels are at the limit
    of what 4:2:0 chroma leaves: about one clip in 25 is misread after an mp4 of that size, hardly any before.

    Raises:
        VideoError: `frames` is not (T, H, W, 3) uint8.
    """
    check_frames(frames)
    pixels = frames.astype(np.float32)
    background, rows = _read_background(pixels)
    offset = pixels - rows[:, None]  # (T, H, W, 3)
    contrast = np.sqrt((offset * offset).sum(-1))
    colours = _read_colours(pixels, contrast, num_objects)
    covers = _coverages(offset, [colour - rows for _, colour in colours])
    objects = [ObjectReading(None, None, None)] * num_objects
    for index, ((name, _), cover) in enumerate(zip(colours, covers, strict=True)):
        scale = min(cover.shape[1:]) / UNITS
        if cover.sum((1, 2)).max() >= MIN_AREA * scale**2:
            objects[index] = ObjectReading(_read_shape(cover), name, _read_motion(cover))
    return objects, background


def _read_background(pixels: FloatArray) -> tuple[str | None, FloatArray]:
    """Its name, and the colour it shows in each row (H, 3)."""
    height, width = pixels.shape[1:3]
    edge = max(1, round(width * EDGE_SHARE))
    sides = np.concatenate([pixels[:, :, :edge], pixels[:, :, -edge:]], axis=2)
    rows = np.median(sides, axis=(0, 2)).astype(np.float32)
    errors = {
        name: float(np.median(np.linalg.norm(rows - _rows(name, height), axis=-1))) for name in BACKGROUND_COLOURS
    }
    best = min(errors, key=errors.__getitem__)
    return (best if errors[best] <= MAX_BACKGROUND_ERROR else None), rows


@cache
def _rows(background: str, height: int) -> FloatArray:
    top, bottom = np.asarray(BACKGROUND_COLOURS[background], np.float32)
    return top + np.linspace(0, 1, height, dtype=np.float32)[:, None] * (bottom - top)


def _read_colours(pixels: FloatArray, contrast: FloatArray, count: int) -> list[tuple[str, FloatArray]]:
    """The `count` colours with most votes: name, and the value it has in this clip."""
    strongest = contrast
    for axis in (1, 2):
        padded = np.pad(strongest, [(1, 1) if axis == place else (0, 0) for place in range(3)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis)
        strongest = np.maximum(np.maximum(windows[..., 0], windows[..., 1]), windows[..., 2])
    voters = pixels[(contrast > MIN_CONTRAST) & (contrast >= PLATEAU * strongest)]  # (n, 3)
    if not len(voters):
        return []
    palette = np.asarray(list(COLOURS.values()), np.float32)
    errors = np.linalg.norm(voters[:, None] - palette, axis=-1)
    votes = np.where(errors.min(1) <= MAX_COLOUR_ERROR, errors.argmin(1), -1)
    counts = np.bincount(votes[votes >= 0], minlength=len(palette))
    order = [index for index in np.argsort(-counts, kind="stable")[:count] if counts[index]]
    names = list(COLOURS)
    return [(names[index], np.median(voters[votes == index], axis=0)) for index in order]


def _coverages(offset: FloatArray, directions: list[FloatArray]) -> list[FloatArray]:
    """For each object, given its colour's offset from each row (H, 3): how much of each pixel it covers, (T, H, W).

    With several objects, a pixel belongs to the one whose line from the background passes nearest to it.
    """
    covers, misses = [], []
    for direction in directions:
        length2 = np.maximum((direction * direction).sum(-1), 1)[:, None]  # (H, 1)
        cover = np.clip(np.einsum("thwc,hc->thw", offset, direction) / length2, 0, 1)
        covers.append(np.where(cover < MIN_COVERAGE, 0, cover))
        if len(directions) > 1:
            misses.append(np.linalg.norm(offset - cover[..., None] * direction[:, None], axis=-1))
    if len(directions) > 1:
        nearest = np.argmin(misses, axis=0)
        covers = [np.where(nearest == index, cover, 0) for index, cover in enumerate(covers)]
    return covers


def _centres(cover: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Area (T,) and centre of mass x, y (T,) in pixels, of frames that hold something."""
    area = cover.sum((1, 2))
    safe = np.maximum(area, 1e-6)
    x = cover.sum(1) @ np.arange(0.5, cover.shape[2], dtype=np.float32) / safe
    y = cover.sum(2) @ np.arange(0.5, cover.shape[1], dtype=np.float32) / safe
    return area, x, y


def _rim(cover: FloatArray) -> FloatArray:
    """Coverage on the outermost pixels of each frame, (T,)."""
    return np.concatenate([cover[:, 0], cover[:, -1], cover[:, :, 0], cover[:, :, -1]], axis=1).sum(1)


def _read_motion(cover: FloatArray) -> str | None:
    scale = min(cover.shape[1:]) / UNITS
    area, x, y = _centres(cover)
    used = area >= MIN_AREA / 2 * scale**2
    if len(area) < 2 or used.mean() < MIN_PRESENT:
        return None
    whole = used & (_rim(cover) < MAX_CUT)
    if (whole[1:] & whole[:-1]).sum() >= 2:  # a step between whole frames, and another to compare
        used = whole
    path = np.stack([x, y], 1) / scale
    spread = np.linalg.svd(path[used] - path[used].mean(0), compute_uv=False)[-1] / np.sqrt(used.sum())
    if spread > MIN_ORBIT:
        return _read_turn(path[used])
    # The median step is not misled by the jump of an object that comes back on the other side.
    steps = np.diff(path, axis=0)[used[1:] & used[:-1]]
    if not len(steps):
        return None
    travel = np.median(steps, axis=0) * (len(area) - 1)
    along = int(np.argmax(np.abs(travel)))
    if abs(travel[along]) > MIN_TRAVEL:
        straight = abs(travel[1 - along]) < MAX_SLANT * abs(travel[along])
        words = (("left", "right"), ("up", "down"))[along]
        return words[int(travel[along] > 0)] if straight else None
    fifth = max(1, used.sum() // 5)
    growth = 0.5 * float(np.log(np.median(area[used][-fifth:]) / np.median(area[used][:fifth])))
    if abs(growth) > MIN_GROWTH:
        return "grows" if growth > 0 else "shrinks"
    return "still" if abs(travel[along]) < MAX_REST else None


def _read_turn(path: FloatArray) -> str | None:
    """Whether a path (T, 2) turns clockwise on screen, always, by at least an eighth."""
    steps = np.diff(path, axis=0)
    turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]  # positive is clockwise where y points down
    angles = np.arctan2(turns, (steps[:-1] * steps[1:]).sum(-1))
    return "orbits" if angles.sum() > np.pi / 4 and np.median(turns) > 0 else None


def _read_shape(cover: FloatArray) -> str | None:
    area, x, y = _centres(cover)
    usable = (_rim(cover) < MAX_CUT) & (area > 0.25 * area.max())
    if not usable.any():
        usable = area > 0.5 * area.max()
    cover, area, x, y = cover[usable], area[usable], x[usable], y[usable]
    columns = np.arange(0.5, cover.shape[2], dtype=np.float32)
    rows = np.arange(0.5, cover.shape[1], dtype=np.float32)
    overlaps = {}
    for shape in ALL_SHAPES:
        unit_area, drop = _area_and_centre(shape)
        radius = np.sqrt(area / unit_area)
        outline = SIGNED_DISTANCE[shape](
            (columns - x[:, None])[:, None, :],
            (rows - (y - drop * radius)[:, None])[:, :, None],
            radius[:, None, None],
        )
        template = np.clip(0.5 - outline, 0, 1)
        overlaps[shape] = float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum())
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] >= MIN_OVERLAP else None


@cache
def _area_and_centre(shape: str) -> tuple[float, float]:
    """Of the shape with radius 1: its area, and how far below its origin its centre of mass lies."""
    radius, side = 100.0, 256
    axis = np.arange(0.5, side, dtype=np.float32) - side / 2
    cover = np.clip(0.5 - SIGNED_DISTANCE[shape](axis[None], axis[:, None], np.float32(radius)), 0, 1)  # type: ignore[arg-type]
    return float(cover.sum() / radius**2), float((cover.sum(1) @ axis) / cover.sum() / radius)
