"""The grid of animations that the README opens with: `python docs/grid.py tiny`, `python docs/grid.py tiny-i2v`.

Text to video: the first sixteen prompts of the evaluation list. Image to video: the first cases of the evaluation,
four whose picture this package's renderer drew and the four after them drawn by Pillow, each beside its picture.
Seeds are those of `cogworks eval`; nothing is chosen by hand. `docs/refresh.py` writes the table (`table`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cogworks.config.variants import VARIANTS
from cogworks.evaluation.case import Case
from cogworks.evaluation.shapes.image_cases import image_cases, image_prompts
from cogworks.evaluation.shapes.prompts import evaluation_prompts
from cogworks.evaluation.shapes.suite import text_cases
from cogworks.weights.storage import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = Path(__file__).parent / "images"
NUM_PROMPTS, NUM_PICTURES = 16, 4
COLUMNS = 4  # of animations, or of pictures and animations
ENLARGE = 2
COLOURS = 128  # of an animation, a fifth smaller than 256; a value is 3 of 255 off on average
ROUNDS = 3  # in which the palette, spread over what the animation shows and not over how often, comes to its clusters
TICK = 10  # ms, the unit of a GIF's clock


def cases_of(*, takes_image: bool) -> tuple[Case, ...]:
    """What is in the grid; the seed of each is the number of its line."""
    if not takes_image:
        return text_cases()[:NUM_PROMPTS]
    return image_cases("rendered")[:NUM_PICTURES] + image_cases("foreign")[NUM_PICTURES : 2 * NUM_PICTURES]


def table(model: str) -> list[str]:
    """The grid of a variant in Markdown, for a page at the root of the repository."""
    takes_image = VARIANTS[model].takes_image
    prompts = image_prompts()[: 2 * NUM_PICTURES] if takes_image else evaluation_prompts()[:NUM_PROMPTS]
    cells = []
    for line, prompt in enumerate(prompts, start=1):
        if takes_image:
            drawn = "drawn by this package" if line <= NUM_PICTURES else "drawn by Pillow"
            cells.append((f"![picture {line}](docs/images/{model}-{line}.png)", drawn))
        cells.append((f"![{prompt}](docs/images/{model}-{line}.gif)", prompt))
    lines = []
    for start in range(0, len(cells), COLUMNS):
        shown, said = zip(*cells[start : start + COLUMNS], strict=True)
        lines += [_row(shown), *([_row([":---:"] * len(shown))] if start == 0 else []), _row(said)]
    return lines


def make(model: str, folder: Path, batch: int) -> list[Path]:
    """Write the animations of a model, and the pictures that they begin from."""
    import cogworks
    from cogworks.evaluation.judging import batches, making

    pipeline = cogworks.load(model)
    variant = pipeline.variant
    generate = making(pipeline)
    paths = []
    for cases in batches(cases_of(takes_image=variant.takes_image), batch):
        for case, frames in zip(cases, generate(cases), strict=True):
            paths.append(folder / f"{variant.name}-{case.seed}.gif")
            save_animation(frames, variant.defaults.fps, paths[-1])
            if case.image is not None:
                paths.append(folder / f"{variant.name}-{case.seed}.png")
                _save(_enlarged(case.image), paths[-1])
            print(case.prompt, file=sys.stderr)
    return paths


def save_animation(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    """Write frames (T, H, W, 3) as a GIF of one palette, enlarged without a filter, that repeats for ever."""
    from PIL import Image

    strip = Image.fromarray(np.concatenate(list(frames)))
    palette = strip.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=ROUNDS)
    first, *others = (_enlarged(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    # Rounded ends, so that errors do not add up.
    ends = np.round(np.arange(len(frames) + 1) * 1000 / (fps * TICK)).astype(int) * TICK
    _save(first, path, save_all=True, append_images=others, duration=np.diff(ends).tolist(), loop=0, optimize=True)


def _enlarged(picture: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(picture.repeat(ENLARGE, axis=0).repeat(ENLARGE, axis=1))


def _save(picture: Image, path: Path, **options: object) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, path.suffix[1:], **options)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python docs/grid.py", description="Make the animations of the README.")
    parser.add_argument("model", help="bundled name, folder or Hugging Face id")
    parser.add_argument("--batch", type=int, default=8, help="videos made at once, 8 if not given")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder for them, docs/images if not given")
    asked = parser.parse_args(arguments)
    paths = make(asked.model, asked.into, asked.batch)
    print(f"{len(paths)} files, {sum(path.stat().st_size for path in paths) / 1e3:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
