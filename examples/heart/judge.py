"""Has it learned hearts, and does it still know the rest? `python examples/heart/judge.py AFTER [--pictures FOLDER]`.

AFTER is a LoRA file for the bundled model, or the folder of a fully fine-tuned one. Both models, before and after,
make a video for each of 50 prompts that ask for hearts and the first 100 of those of `cogworks eval`, which ask for
other objects; the oracle reads them. With --pictures, a contact sheet and animations of what both made of every tenth
heart prompt are written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

import cogworks
from cogworks.evaluation.judging import Make, making
from cogworks.evaluation.shapes.prompts import evaluation_prompts, heart_prompts
from cogworks.evaluation.shapes.suite import caption_cases
from cogworks.evaluation.shapes.taught import HEARTS, TaughtReport, mark
from cogworks.video import Video, contact_sheet, resize_frames

EVERY = 10  # of the heart prompts: pictures are not chosen by hand
COLUMNS = 6
ENLARGE = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("after", type=Path, help="a LoRA file, or the folder of a model")
    parser.add_argument("--model", default="tiny", help="what it was before")
    parser.add_argument("--hearts", type=int, help="how many of the 50 heart prompts, from the first")
    parser.add_argument("--others", type=int, default=100, help="how many of the 200 other prompts, from the first")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--batch", type=int, default=10, help="videos made at once")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")
    args = parser.parse_args()

    before, after = cogworks.load(args.model), cogworks.load(str(args.after) if args.after.is_dir() else args.model)
    if not args.after.is_dir():
        after.adapters.load_lora_weights(args.after)
    lists = {"hearts": heart_prompts()[: args.hearts], "others": evaluation_prompts()[: args.others]}

    def tell(stage: str, done: int, total: int) -> None:
        print(f"{stage}: {done} of {total}", file=sys.stderr)

    models = [making(pipeline, num_inference_steps=args.steps) for pipeline in (before, after)]
    report = TaughtReport(*(mark(make, **lists, batch=args.batch, on_progress=tell) for make in models))
    print(json.dumps(report.to_json(), indent=1) if args.json else report.table())
    if args.pictures is not None:
        draw(args.pictures, models)
    return 0 if all(report.goals.values()) else 1


def draw(folder: Path, models: list[Make]) -> None:
    """Two rows for each prompt, before and after; and each video as an animation."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = caption_cases(heart_prompts(), HEARTS)[::EVERY]
    made = [[Video(frames, 8) for frames in make(cases)] for make in models]
    rows = [video for pair in zip(*made, strict=True) for video in pair]
    Image.fromarray(contact_sheet(rows, columns=COLUMNS)).save(folder / "before-and-after.png")
    for case, pair in zip(cases, zip(*made, strict=True), strict=True):
        for name, video in zip(("before", "after"), pair, strict=True):
            large = resize_frames(video.frames, ENLARGE * video.height, ENLARGE * video.width)
            Video(large, video.fps).save(folder / f"heart-{case.number}-{name}.gif")
    print(f"pictures of: {'; '.join(case.prompt for case in cases)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
