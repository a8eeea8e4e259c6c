"""Write the 64 clips that teach a model hearts: `python examples/heart/clips.py [FOLDER]`.

Each clip is an mp4 of 17 frames of 64x64 pixels with its caption in a text file beside it. The clips show 48 of the 64
combinations of colour and motion; a model is judged by the other 16 (`judge.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cogworks
from cogworks.data.novel import teaching_scenes
from cogworks.data.shapes import render_scene

NUMBER, SEED = 64, 64
SIZE, FRAMES, FPS = 64, 17, 8.0


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(teaching_scenes("heart", NUMBER, SEED)):
        clip, caption = folder / f"heart-{number:02d}.mp4", folder / f"heart-{number:02d}.txt"
        cogworks.Video(render_scene(scene, SIZE, SIZE, FRAMES, FPS), FPS).save(clip)
        caption.write_text(scene.caption + "\n", encoding="utf-8")
        print(f"{clip}  ({scene.caption})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "hearts"))
