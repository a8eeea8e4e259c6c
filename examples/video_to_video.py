"""Begin from a video instead of from noise: `python examples/video_to_video.py [FOLDER]`.

A clip of the Shapes world is rendered, then asked to become something else. With a low strength little changes; with a
high one the prompt wins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cogworks
from cogworks.data.shapes import render

PROMPT = "a green circle moves right on a black background"
STRENGTHS = (0.3, 0.6, 0.9)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = cogworks.load("tiny")
    frames, caption = render(seed=0, index=0, size=64, frames=17, fps=8)
    source = cogworks.Video(frames, fps=8)
    source.save(folder / "source.gif")
    print(f"{folder / 'source.gif'}  ({caption})")
    for strength in STRENGTHS:
        path = folder / f"strength-{strength}.gif"
        pipeline.generate(PROMPT, video=source, strength=strength, seed=7).save(path)
        print(f"{path}  ({PROMPT})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs"))
