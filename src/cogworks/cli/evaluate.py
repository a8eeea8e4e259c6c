"""`cogworks eval`: a model judged by what its videos show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cogworks.cli.terminal import AsJson, ProgressDisplay, Switch, refuse_existing, result, say
from cogworks.config.measures import Quantization
from cogworks.errors import RequestError

if TYPE_CHECKING:
    from cogworks.evaluation.run import ModelReport
    from cogworks.evaluation.shapes_eval import Share

_STAGES = {"prompts": "generating and reading", "clips": "reconstructing"}


def evaluate(
    model: str = "tiny",
    /,
    *,
    samples: int | None = None,
    quantize: Quantization | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    force: Switch = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a model obeys prompts, on the Shapes world.

    Makes one video for each of 100 committed prompts, whose combinations of shape, colour and motion training never
    shows, and reads from its pixels whether it shows what was asked for. Then passes 100 unseen clips through the VAE.

    Args:
        model: Bundled name, Hugging Face id, or a folder in the layout of diffusers or of SAT.
        samples: How many of the prompts, from the first, and of the clips; 100 if not given.
        quantize: Judge it in 8 bits, as `generate --quantize` has it.
        output: File for the whole report, as JSON: every prompt, what was asked and what was seen.
        force: Replace a file that is already there.
        as_json: Print the whole report as one JSON object instead of a table.
    """
    if output is not None:
        refuse_existing(output, force=force)

    from cogworks.evaluation.prompts import NUM_PROMPTS
    from cogworks.evaluation.run import evaluate_model
    from cogworks.pipelines.load import load

    if samples is not None and not 1 <= samples <= NUM_PROMPTS:
        raise RequestError(f"--samples must be from 1 to {NUM_PROMPTS}, the number of prompts, got {samples}")
    with ProgressDisplay() as display:
        pipeline = load(model, quantize=quantize)
        pipeline.load_networks(on_progress=display)
        report = evaluate_model(
            pipeline,
            samples=samples,
            on_progress=lambda stage, done, total: display.show(_STAGES[stage], done, total, stage),
        )
    values = report.to_json()
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"wrote {output}")
    result(_table(report), values, as_json=as_json)


def _table(report: ModelReport) -> str:
    from cogworks.evaluation.shapes_eval import ATTRIBUTES

    prompts, clips, settings = report.prompts, report.reconstruction, report.settings
    shares = {"all four": prompts.all_four, **{name: prompts.accuracy(name) for name in ATTRIBUTES}}
    return "\n".join(
        [
            f"{report.model}: {len(prompts.rows)} prompts of held-out combinations, {settings.steps} steps of "
            f"{settings.sampler}, guidance {settings.guidance_scale:g}"
            + ("" if report.quantize is None else f", {report.quantize}"),
            *(_line(name, share) for name, share in shares.items()),
            f"VAE: {clips.num_clips} unseen clips, PSNR {clips.psnr:.1f} dB, SSIM {clips.ssim:.3f}",
            _line("read the same", clips.unchanged),
            *(_line(name, share) for name, share in clips.unchanged_by_attribute.items()),
        ]
    )


def _line(name: str, share: Share) -> str:
    values = share.to_json()
    interval = f"95 % interval {values['low']:.0%} to {values['high']:.0%}"
    return f"  {name:<14}{share.right:>4} of {share.total} ({share.value:.0%}, {interval})"
