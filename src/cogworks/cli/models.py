"""`cogworks models`: what there is to load."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from cogworks.cli.terminal import AsJson, result
from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

app = App(name="models", help="List the models that Cogworks knows, or show one.", suppress_keyboard_interrupt=False)


@app.command(name="list")
def list_models(*, as_json: AsJson = False) -> None:
    """List the models that have a name: bundled ones and published ones.

    Folders and other Hugging Face ids work wherever a name does.

    Args:
        as_json: Print one JSON object instead of a table.
    """
    rows = [_summary(variant) for variant in VARIANTS.values()]
    cells = [("NAME", "FROM", "MAKES", "WEIGHTS"), *((r["name"], r["input"], r["makes"], r["weights"]) for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    result("\n".join(lines), {"models": rows}, as_json=as_json)


@app.command(name="show")
def show_model(name: str, /, *, as_json: AsJson = False) -> None:
    """Show all there is to know of one model, as YAML.

    Nothing is fetched: a model of the hub is looked for among what was downloaded before.

    Args:
        name: Bundled or published name, Hugging Face id, or folder.
        as_json: Print one JSON object instead of YAML.
    """
    import yaml

    from cogworks.weights.components import empty_text_encoder, empty_transformer, empty_vae

    variant, files = _find(name)
    networks: dict[str, nn.Module] = {
        "transformer": empty_transformer(variant),
        "vae": empty_vae(variant),
        "text_encoder": empty_text_encoder(variant),
    }
    values: dict[str, Any] = {
        **_summary(variant),
        "files": str(files) if files else "not downloaded",
        "parameters": {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()},
        **{key: value for key, value in asdict(variant).items() if key not in ("name", "hub_id")},
    }
    values = _plain(values)
    result(yaml.safe_dump(values, sort_keys=False).rstrip(), values, as_json=as_json)


def _find(name: str) -> tuple[Variant, Path | None]:
    """The variant and, where they are on this machine, its files."""
    from cogworks.weights.load import load_variant
    from cogworks.weights.source import resolve

    by_hub_id = {variant.hub_id: variant for variant in VARIANTS.values() if variant.hub_id}
    known = VARIANTS.get(name) or by_hub_id.get(name)
    try:
        folder = resolve(name, local_files_only=True)
    except WeightsError:
        if known is None:
            raise
        return known, None
    return known or load_variant(folder), folder.path


def _summary(variant: Variant) -> dict[str, str]:
    defaults = variant.defaults
    return {
        "name": variant.name,
        "input": "text and image" if variant.takes_image else "text",
        "makes": f"{defaults.num_frames} frames of {defaults.width}x{defaults.height}, {defaults.fps} a second",
        "weights": variant.hub_id or "bundled",
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML and JSON both have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
