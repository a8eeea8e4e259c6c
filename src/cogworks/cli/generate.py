"""`cogworks generate`: a prompt in, a video file out.

`generate` is long because its signature is the command and its docstring the help.
"""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from cogworks import __version__
from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, refuse_existing, result, say
from cogworks.config.variants import VARIANTS
from cogworks.errors import RequestError

if TYPE_CHECKING:
    from cogworks.config.variants import Variant
    from cogworks.video import Video

MAX_NAME = 48  # characters of the prompt in a file name


def generate(
    prompt: str,
    /,
    *,
    image: Path | None = None,
    video: Path | None = None,
    strength: float | None = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path(),
    model: str = "tiny",
    seed: int | None = None,
    steps: PositiveInt | None = None,
    frames: PositiveInt | None = None,
    size: str | None = None,
    guidance: float | None = None,
    dynamic_guidance: bool | None = None,
    negative_prompt: str | None = None,
    sampler: Literal["ddim", "dpm", "dpm-ode", "ddpm"] | None = None,
    fps: PositiveFloat | None = None,
    force: Switch = False,
    as_json: AsJson = False,
) -> None:
    """Make a video from a prompt, an image or another video.

    Prints the path of the file. What is not given is the model's own default; `cogworks models show NAME` lists them.

    Args:
        prompt: What the video should show.
        image: First frame of the video, for image-to-video models.
        video: Video to begin from.
        strength: How far the result may go from --video, above 0 and up to 1; 0.8 if not given.
        output: A file (.mp4, .gif, .webp, or .png for a contact sheet), or a folder for an mp4 named after the prompt.
        model: Bundled name, Hugging Face id, or a folder in the layout of diffusers or of SAT.
        seed: The same seed and settings give the same video. Drawn and reported if not given.
        steps: Number of sampling steps.
        frames: Number of frames: 1, 8k or 8k + 1.
        size: Width and height in pixels, for example 720x480.
        guidance: How strongly the prompt is followed; 1 or less turns guidance off.
        dynamic_guidance: Let guidance change with the noise level, as the published 5B models do.
        negative_prompt: What the video should not show.
        sampler: The way from noise to video.
        fps: Frames per second of the file.
        force: Replace a file that is already there.
        as_json: Print one JSON object instead of the path.
    """
    started = time.monotonic()
    width, height = (None, None) if size is None else parse_size(size)
    request: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
        "num_frames": frames,
        "fps": fps,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "use_dynamic_cfg": dynamic_guidance,
        "sampler": sampler,
        "seed": secrets.randbelow(2**31) if seed is None else seed,
    }
    if strength is not None:
        if video is None:
            raise RequestError("--strength says how far the result may go from a video: give one with --video")
        request["strength"] = strength
    path = output_path(output, prompt, request["seed"])
    refuse_existing(path, force=force)
    made, recipe = _run(model, request, image, video, path)
    seconds = round(time.monotonic() - started, 1)
    say(f"{made.num_frames} frames of {made.width}x{made.height} in {seconds} s, seed {request['seed']}")
    result(str(path), {"path": str(path), "seconds": seconds, **recipe}, as_json=as_json)


def _run(
    model: str, request: dict[str, Any], image: Path | None, video: Path | None, path: Path
) -> tuple[Video, dict[str, object]]:
    """Load, generate, write. Returns the video and the recipe that is in its file."""
    from cogworks.pipelines.load import load
    from cogworks.pipelines.progress import Progress
    from cogworks.pipelines.request import check_source
    from cogworks.video import Video, read_image, read_video

    first_frame = None if image is None else read_image(image)
    source = None if video is None else read_video(video, max_frames=request["num_frames"])
    if model in VARIANTS:
        check_source(VARIANTS[model], first_frame, source)  # before gigabytes are read in vain
    with ProgressDisplay() as display:
        display(Progress("load", 0, 1))
        pipeline = load(model)
        display(Progress("load", 1, 1))
        made = pipeline.generate(image=first_frame, video=source, on_progress=display, **request)
        assert isinstance(made, Video)  # one prompt, one video
        sources = {name: str(origin) for name, origin in (("image", image), ("video", video)) if origin is not None}
        recipe: dict[str, object] = {
            "cogworks": __version__,
            "model": model,
            "request": {**_completed(request, pipeline.variant, made), **sources},
        }
        display(Progress("write", 0, 1))
        made.save(path, recipe)
        display(Progress("write", 1, 1))
    return made, recipe


def _completed(request: dict[str, Any], variant: Variant, made: Video) -> dict[str, Any]:
    """The request with what the model filled in, so that the file tells all it takes to make it again."""
    filled = {
        "height": made.height,
        "width": made.width,
        "num_frames": made.num_frames,
        "fps": made.fps,
        "num_inference_steps": variant.defaults.steps,
        "guidance_scale": variant.defaults.guidance_scale,
        "use_dynamic_cfg": variant.defaults.dynamic_guidance,
        "sampler": variant.defaults.sampler,
    }
    return {name: filled.get(name) if value is None else value for name, value in request.items()}


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "720x480". Raises RequestError if it is anything else."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.lower())
    if match is None:
        raise RequestError(f"--size must be width x height in pixels, for example 720x480, got {text!r}")
    return int(match[1]), int(match[2])


def output_path(output: Path, prompt: str, seed: int) -> Path:
    """The file to write: `output`, or one named after the prompt and the seed where `output` is a folder.

    A folder is what exists as one or has no ending.
    """
    if output.suffix and not output.is_dir():
        from cogworks.video.write import FORMATS

        if output.suffix.lower() not in FORMATS:
            raise RequestError(f"{output}: the file's ending must be one of {', '.join(FORMATS)}")
        return output
    name = re.sub(r"\W+", "-", prompt.lower())[:MAX_NAME].strip("-") or "video"
    return output / f"{name}-{seed}.mp4"
