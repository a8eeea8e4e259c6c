"""The pictures of the documentation, made again: `python docs/figures.py gifs` and `python docs/figures.py curves`.

`gifs` makes the README's animations with the bundled model. `curves` draws the training curves from the logs in
docs/training (it needs matplotlib, the extra `eval`).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
ENLARGE = 2
EVERY = 17  # of 100 prompts, sorted by shape: six of them
CURVES = {
    "vae": (("tiny-vae", "psnr"), ("tiny-vae-decoder", "psnr")),
    "transformer": (("tiny-t2v", "loss/quarter_3"), ("tiny-t2v-encoder", "loss/quarter_3")),
}
LABELS = {"psnr": "PSNR of a training batch, dB", "loss/quarter_3": "v-loss, noisiest quarter of the timesteps"}


def gifs() -> None:
    """Every seventeenth prompt of the evaluation list, with the seeds of `cogworks eval`: not chosen by hand."""
    import cogworks
    from cogworks.evaluation.prompts import evaluation_prompts
    from cogworks.video import resize_frames

    pipeline = cogworks.load("tiny")
    for line, prompt in list(enumerate(evaluation_prompts(), start=1))[::EVERY]:
        video = pipeline.generate(prompt, seed=line)
        frames = resize_frames(video.frames, ENLARGE * video.height, ENLARGE * video.width)
        cogworks.Video(frames, video.fps).save(IMAGES / f"prompt-{line}.gif")
        print(prompt)


def curves() -> None:
    from matplotlib import pyplot

    for picture, series in CURVES.items():
        _, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
        for run, column in series:
            with (DOCS / "training" / f"{run}.csv").open() as file:
                rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column]]
            steps, values = zip(*rows, strict=True)
            axes.plot(steps, _smooth(values), label=run)
            axes.set_ylabel(LABELS[column])
        axes.set_xlabel("step of the run")
        axes.legend()
        axes.grid(alpha=0.3)
        pyplot.savefig(IMAGES / f"curve-{picture}.png", dpi=110)


def _smooth(values: tuple[float, ...], width: int = 7) -> list[float]:
    """Moving average over `width` logged steps."""
    windows = (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    {"gifs": gifs, "curves": curves}[sys.argv[1] if len(sys.argv) > 1 else "gifs"]()
