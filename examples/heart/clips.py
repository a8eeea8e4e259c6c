"""Write the clips that teach a model hearts: `python examples/heart/clips.py [FOLDER] [RIVAL]`.

64 hearts, and 192 clips of shapes that the model knows: a model that is shown hearts alone draws nothing else in the
end. 64 of these are companions of the hearts, the same clip with another shape; every second one is a RIVAL, if a
shape is named, such as the square that a model without practice draws when it is asked for a heart. Every clip is an
mp4 of 17 frames with its caption in a text file beside it; at twice the size of the model, so that the halved colour
resolution of an mp4 does not show. The hearts have 48 of the 64 combinations of colour and motion; a model is judged
by the other 16 (`judge.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cogworks
from cogworks.data.novel import companion_scenes, teaching_scenes
from cogworks.data.shapes import draw_scene, render_scene

HEARTS, SEED = 64, 64
OTHERS = 128
SIZE, FRAMES, FPS = 128, 17, 8.0


def main(folder: Path, rival: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    hearts = teaching_scenes("heart", HEARTS, SEED)
    others = [draw_scene(SEED + 1, index, num_objects=1) for index in range(OTHERS)]
    for name, scenes in (("heart", hearts), ("known", [*companion_scenes(hearts, rival), *others])):
        for number, scene in enumerate(scenes):
            clip = folder / f"{name}-{number:03d}.mp4"
            cogworks.Video(render_scene(scene, SIZE, SIZE, FRAMES, FPS), FPS).save(clip)
            clip.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8")
            print(f"{clip}  ({scene.caption})")


if __name__ == "__main__":
    words = [*sys.argv[1:], "hearts"]
    main(Path(words[0]), words[1] if len(words) > 2 else None)
