"""Three videos and a contact sheet with the bundled model: `python examples/demo.py [FOLDER]`.

Needs no GPU and no network. The videos are 64x64; here they are written four times as large, to be seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import cogworks
from cogworks.video import contact_sheet, resize_frames

PROMPTS = (
    "a red circle moves right on a black background",
    "a green triangle moves down on a gradient background",
    "a cyan ring moves up on a gray background",
)
SEED = 7
ENLARGE = 4


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = cogworks.load("tiny")
    videos = []
    for prompt in PROMPTS:
        video = pipeline.generate(prompt, seed=SEED)
        height, width = ENLARGE * video.height, ENLARGE * video.width
        videos.append(cogworks.Video(resize_frames(video.frames, height, width), video.fps))
        path = folder / f"{prompt.replace(' ', '-')}.mp4"
        videos[-1].save(path)
        print(f"{path}  ({prompt})")
    path = folder / "contact-sheet.png"
    Image.fromarray(contact_sheet(videos, columns=6)).save(path)
    print(f"{path}  (six frames of each)")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
