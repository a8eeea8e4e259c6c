"""A few seconds that go through everything: prompt, networks, sampler, decoder, file, and the eye that judges them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.doctor.findings import Finding
from cogworks.errors import CogworksError

if TYPE_CHECKING:
    from cogworks.video import Video

MODEL = "tiny"
PROMPT = "a red circle moves right on a black background"
SHOWS = {"shape": "circle", "colour": "red", "motion": "right", "background": "black"}
SEED, STEPS = 7, 8
LEAST_FILE_PSNR = 28.0  # dB; H.264 at the quality we write gives 35 and more, a wrong colour range 25 and less
_WRONG_INSTALL = "Install again; if that does not help, report it with the output of cogworks doctor --json."


def run_self_test() -> list[Finding]:
    """Generate a video with the bundled model, read what it shows, write it and read it back."""
    started = time.monotonic()
    try:
        findings, video = _generate()
        if video is not None:
            findings.append(_write_and_read(video))
    except (CogworksError, RuntimeError, OSError, MemoryError, ImportError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return [Finding("problem", "self-test", f"The bundled model does not run: {why}", _WRONG_INSTALL)]
    seconds = time.monotonic() - started
    return [*findings, Finding("ok", "self-test", f"Took {seconds:.1f} s.", values={"seconds": round(seconds, 2)})]


def _generate() -> tuple[list[Finding], Video | None]:
    from cogworks.evaluation.shapes.oracle import read
    from cogworks.pipelines.load import load
    from cogworks.video import Video

    made = load(MODEL).generate(PROMPT, seed=SEED, num_inference_steps=STEPS)
    assert isinstance(made, Video)
    seen = asdict(read(made.frames))
    if seen == SHOWS:
        text = f"{MODEL} was asked for {PROMPT!r}, and its video shows that."
        return [Finding("ok", "self-test", text, values=seen)], made
    wrong = ", ".join(
        f"{name} {seen[name]} in place of {asked}" for name, asked in SHOWS.items() if seen[name] != asked
    )
    text = f"{MODEL} was asked for {PROMPT!r}, and its video shows {wrong}: something computes wrong numbers here."
    advice = "Try another device (--device cpu) and another torch, and report it with cogworks doctor --json."
    return [Finding("problem", "self-test", text, advice, seen)], made


def _write_and_read(video: Video) -> Finding:
    from cogworks.evaluation.figures.metrics import psnr
    from cogworks.video import read_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "self-test.mp4")
        video.save(path)
        again = read_video(path)
    if again.frames.shape != video.frames.shape:
        text = f"An mp4 of {video.frames.shape} was read back as {again.frames.shape}."
        return Finding("problem", "self-test", text, _WRONG_INSTALL)
    likeness = psnr(video.frames, again.frames)
    text = f"It was written as mp4 and read back with a PSNR of {likeness:.1f} dB."
    if likeness < LEAST_FILE_PSNR:
        text = f"{text[:-1]}, which is less than the {LEAST_FILE_PSNR:g} dB it should have."
        return Finding("problem", "self-test", text, _WRONG_INSTALL, {"psnr": likeness})
    return Finding("ok", "self-test", text, values={"psnr": round(likeness, 2)})
