"""The cases of image to video: a first frame, and the words for what it is to do.

Every scene shows one object whose (shape, colour, motion) training never showed, and comes twice: with the frame that
the renderer of this package makes of it, and with one that Pillow drew.
"""

from __future__ import annotations

from importlib import resources
from typing import Literal

from cogworks.data.captions import parse_caption
from cogworks.data.shapes import Scene, draw_scene, render_scene
from cogworks.evaluation.case import Case, Picture
from cogworks.evaluation.shapes import foreign

ImageKind = Literal["rendered", "foreign"]

IMAGE_KINDS: tuple[ImageKind, ...] = ("rendered", "foreign")
IMAGE_SEED = 1_000_033  # of the scenes; training must draw its clips with another
NUM_IMAGE_CASES = 100
IMAGE_PROMPTS_FILE = "eval_shapes_i2v_100.txt"


def image_prompts() -> list[str]:
    """The committed list, in its order."""
    return resources.files("cogworks").joinpath("assets", IMAGE_PROMPTS_FILE).read_text(encoding="utf-8").splitlines()


def image_scenes() -> tuple[Scene, ...]:
    """The scenes whose captions are the list; their first frame is the image."""
    return tuple(draw_scene(IMAGE_SEED, i, split="held_out", num_objects=1) for i in range(NUM_IMAGE_CASES))


def image_cases(kind: ImageKind, height: int = 64, width: int = 64) -> tuple[Case, ...]:
    """The hundred cases of one kind, in a group named after it.

    The video of line n has the seed n. The foreign cases are numbered on from the rendered ones.

    Args:
        kind: "rendered" or "foreign", who draws the images.
        height, width: of the images, in pixels.

    Raises:
        ValueError: another kind.
    """
    if kind not in IMAGE_KINDS:
        raise ValueError(f"kind must be one of {', '.join(IMAGE_KINDS)}, got {kind!r}")
    before = IMAGE_KINDS.index(kind) * NUM_IMAGE_CASES
    return tuple(
        Case(
            number=before + line,
            group=kind,
            prompt=scene.caption,
            seed=line,
            image=_image(kind, scene, height, width),
            asked=parse_caption(scene.caption),
        )
        for line, scene in enumerate(image_scenes(), start=1)
    )


def _image(kind: ImageKind, scene: Scene, height: int, width: int) -> Picture:
    if kind == "foreign":
        return foreign.draw(scene, height, width)
    return render_scene(scene, height, width, num_frames=1, fps=1)[0]
