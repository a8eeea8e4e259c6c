"""A picture of what a source holds: how long, how large, how fast the clips are, and how long their captions.

Drawn with Pillow alone, so that it works wherever videos can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogworks.data.check import CheckReport
from cogworks.errors import DataError
from cogworks.video.faults import writing

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MAX_BARS = 16
PANEL_WIDTH, MARGIN = 480, 16  # pixels

_TITLE_SIZE, _TEXT_SIZE = 17, 13
_PAPER, _INK, _FAINT, _BAR = (255, 255, 255), (30, 30, 30), (130, 130, 130), (70, 120, 180)
_ROW = 20  # pixels, of one bar and its label
_PANEL_HEIGHT = 2 * MARGIN + 2 * _TITLE_SIZE + MAX_BARS * _ROW

Bars = list[tuple[str, int]]


def check_picture_path(path: Path) -> None:
    """Raise DataError unless a picture can be written under this name."""
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"cannot draw {path.name!r}: the name of a picture ends in {', '.join(ENDINGS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"cannot write {path}: its folder is not there, or a folder has that name")


def draw_histograms(report: CheckReport, path: Path) -> None:
    """Draw lengths, sizes, frame rates and caption lengths of the clips into a picture file.

    Raises:
        DataError: no picture file can have that name.
        VideoError: it cannot be written.
    """
    from PIL import Image, ImageDraw

    check_picture_path(path)
    extents = report.extents
    sizes = Counter(f"{each.width}x{each.height}" for each in extents)
    rates = Counter(f"{each.fps:.4g}" for each in extents if each.num_frames > 1)
    panels = (
        ("length (frames)", number_bars([each.num_frames for each in extents])),
        ("width x height (pixels)", _most_common(sizes)),
        ("frames a second", _most_common(rates)),
        ("caption (words)", number_bars(report.caption_words)),
    )
    image = Image.new("RGB", (2 * PANEL_WIDTH, 2 * _PANEL_HEIGHT), _PAPER)
    draw = ImageDraw.Draw(image)
    for index, (title, bars) in enumerate(panels):
        _draw_panel(draw, PANEL_WIDTH * (index % 2), _PANEL_HEIGHT * (index // 2), title, bars)
    with writing(path):
        image.save(path)


def number_bars(values: Sequence[int]) -> Bars:
    """At most `MAX_BARS` bars of equal steps that hold all values; one bar for each value where these are few."""
    if not values:
        return []
    low, high = min(values), max(values)
    step = max(1, -(-(high - low + 1) // MAX_BARS))
    counts = np.bincount((np.asarray(values) - low) // step)
    labels = [low + step * index for index in range(len(counts))]
    return [
        (f"{label}" if step == 1 else f"{label}-{label + step - 1}", int(count))
        for label, count in zip(labels, counts, strict=True)
    ]


def _most_common(counts: Counter[str]) -> Bars:
    """The most frequent, and the others together."""
    if len(counts) <= MAX_BARS:
        return counts.most_common()
    common = counts.most_common(MAX_BARS - 1)
    return [*common, ("other", sum(counts.values()) - sum(count for _, count in common))]


def _draw_panel(draw: ImageDraw, left: int, top: int, title: str, bars: Bars) -> None:
    from PIL import ImageFont

    large, small = ImageFont.load_default(_TITLE_SIZE), ImageFont.load_default(_TEXT_SIZE)
    draw.text((left + MARGIN, top + MARGIN), title, _INK, large)
    first = top + MARGIN + 2 * _TITLE_SIZE
    if not bars:
        draw.text((left + MARGIN, first), "none", _FAINT, small)
        return
    axis = left + MARGIN + 8 + max(int(draw.textlength(label, small)) for label, _ in bars)
    most = max(count for _, count in bars)
    room = left + PANEL_WIDTH - 2 * MARGIN - int(draw.textlength(str(most), small)) - axis
    for index, (label, count) in enumerate(bars):
        middle = first + index * _ROW + _ROW // 2
        length = round(room * count / most)
        draw.text((axis - 6, middle), label, _INK, small, anchor="rm")
        if count:
            draw.rectangle((axis, middle - _ROW // 2 + 3, axis + max(1, length), middle + _ROW // 2 - 3), _BAR)
        draw.text((axis + length + 6, middle), str(count), _FAINT, small, anchor="lm")
