"""`cogworks lora`: what a LoRA file holds, into a model, into another dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cogworks.cli.groups import MODELS, verbs
from cogworks.cli.terminal import AsJson, Switch, result, say
from cogworks.errors import RequestError

if TYPE_CHECKING:
    from cogworks.nn.low_rank import LowRank

app = verbs(
    "lora",
    group=MODELS,
    help="Look into LoRA files, merge one into a model, or convert one for other programs.",
    example="cogworks lora inspect style.safetensors",
)


@app.command(name="inspect")
def inspect_lora(file: Path, /, *, as_json: AsJson = False) -> None:
    """Tell whose dialect a LoRA is in, what it acts on and which model it was made for.

    Args:
        file: A LoRA of diffusers, SAT, kohya, ComfyUI or DiffSynth, or a folder that holds one.
        as_json: Print one JSON object instead of lines.
    """
    from cogworks.weights.lora import read_lora
    from cogworks.weights.lora_fit import made_for

    lora = read_lora(file)
    made = made_for(lora.pairs)
    values = {
        "path": str(lora.path),
        "dialect": lora.dialect,
        "factor_pairs": len(lora.pairs),
        "parameters": sum(pair.lora_a.numel() + pair.lora_b.numel() for pair in lora.pairs),
        "dtypes": _distinct(str(t.dtype).removeprefix("torch.") for p in lora.pairs for t in (p.lora_a, p.lora_b)),
        "ranks": _distinct(pair.rank for pair in lora.pairs),
        "alphas": _distinct(pair.alpha for pair in lora.pairs),
        "targets": _targets(lora.pairs),
        "layers": made.num_layers,
        "width": made.width,
        "made_for": list(made.variants),
    }
    labels = {"factor_pairs": "factor pairs", "made_for": "made for"}
    texts = {
        key: ", ".join(map(_text, value)) if isinstance(value, list) else _text(value) for key, value in values.items()
    }
    texts["made_for"] = texts["made_for"] or "no model that is known here"
    lines = [f"{labels.get(key, key):<13} {text}" for key, text in texts.items() if text != "None"]
    result("\n".join(lines), values, as_json=as_json)


@app.command(name="merge")
def merge_lora(model: str, file: str, target: Path, /, *, as_json: AsJson = False) -> None:
    """Write a model with a LoRA in its weights: as fast as the model itself, and readable where LoRAs are not.

    Prints the path of the new folder. Nothing is left of it if something goes wrong.

    Args:
        model: Bundled or published name, Hugging Face id, or folder.
        file: The LoRA, as PATH or PATH:SCALE; 1 is as it was trained.
        target: The folder to write; it must be new or empty. It gets the layout of the model.
        as_json: Print one JSON object instead of the path.
    """
    from cogworks.config.request import parse_lora
    from cogworks.weights.lora import read_lora
    from cogworks.weights.lora_fit import merge_folder

    use = parse_lora(file)
    lora = read_lora(use.path)
    say(f"merging {lora.path} at scale {use.scale:g} into {model}")
    merge_folder(model, [(lora, use.scale)], target)
    values = {"model": model, "lora": str(lora.path), "scale": use.scale, "path": str(target)}
    result(str(target), values, as_json=as_json)


@app.command(name="convert")
def convert_lora(
    file: Path,
    target: Path,
    /,
    *,
    to: Literal["diffusers", "sat", "kohya", "diffsynth"],
    model: str | None = None,
    force: Switch = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite a LoRA for another program, bit for bit where it can say the same.

    Args:
        file: A LoRA of any dialect, or a folder that holds one.
        target: The file to write: .safetensors, or .pt for SAT.
        to: Dialect of the new file; kohya's is also what ComfyUI reads.
        model: The model that it is for; only a LoRA that acts on the patch embedding needs it.
        force: Replace a file that is already there.
        as_json: Print one JSON object instead of the path.
    """
    from cogworks.weights.load import load_variant
    from cogworks.weights.lora import read_lora
    from cogworks.weights.lora_fit import check_fit
    from cogworks.weights.lora_write import write_lora
    from cogworks.weights.source import resolve

    if target.is_dir():
        raise RequestError(f"{target} is a folder, and a file is to be written")
    if target.exists() and not force:
        raise RequestError(f"{target} is already there; --force replaces it")
    lora = read_lora(file)
    config = None if model is None else load_variant(resolve(model)).transformer
    if config is not None:
        check_fit(lora, config)
    write_lora(target, lora.pairs, to, config=config)
    values = {"source": str(lora.path), "from": lora.dialect, "path": str(target), "dialect": to}
    result(str(target), values, as_json=as_json)


def _targets(pairs: Sequence[LowRank]) -> list[str]:
    """What is acted on, layers left open, each with its number of factor pairs."""
    patterns = (
        ".".join("*" if part.isdigit() else part for part in pair.path.split("."))
        + (f":{','.join(pair.rows)}" if pair.rows else "")
        for pair in pairs
    )
    return [f"{pattern} ({count})" for pattern, count in Counter(patterns).items()]


def _distinct(values: Iterable[object]) -> list[object]:
    return list(dict.fromkeys(values))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
