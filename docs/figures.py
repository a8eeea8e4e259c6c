"""Draws the training curves from the logs in docs/training: `python docs/figures.py`. It needs the extra `eval`."""

from __future__ import annotations

import csv
from pathlib import Path

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
CURVES = {
    "vae": tuple((f"tiny-vae{stage}", "psnr") for stage in ("", "-decoder", "-joint", "-last")),
    "transformer": (
        *((f"tiny-t2v{stage}", "loss/quarter_3") for stage in ("", "-encoder", "-long")),
        *(
            (name, "loss/band_3")
            for name in ("tiny-t2v-two", "tiny-t2v-last", "tiny-t2v-bound", "tiny-i2v", "tiny-i2v-pictures")
        ),
    ),
}
LABELS = {
    "psnr": "PSNR of a training batch, dB",
    "loss/quarter_3": "v-loss, noisiest quarter of the timesteps",
    "loss/band_3": "v-loss, noisiest quarter of the timesteps",
}


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
    curves()
