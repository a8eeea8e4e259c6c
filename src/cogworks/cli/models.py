"""`cogworks models`: what there is to load, what of it is on this machine and where, and fetching the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogworks.cli.groups import MODELS, verbs
from cogworks.cli.terminal import AsJson, result, say
from cogworks.config.variants import VARIANTS, Variant
from cogworks.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

app = verbs(
    "models",
    group=MODELS,
    help="List, show, find or download the models there are.",
    example="cogworks models show tiny",
)


@app.command(name="list")
def list_models(*, as_json: AsJson = False) -> None:
    """List the models that have a name: bundled ones and published ones, and which of them are on this machine.

    Folders and other Hugging Face ids work wherever a name does. Nothing is fetched.

    Args:
        as_json: Print one JSON object instead of a table.
    """
    rows = [{**_summary(variant), **_state(variant)} for variant in VARIANTS.values()]
    columns = ("name", "input", "makes", "weights", "here")
    cells = [("NAME", "FROM", "MAKES", "WEIGHTS", "HERE"), *(tuple(str(row[key]) for key in columns) for row in rows)]
    result(_table(cells), {"models": rows}, as_json=as_json)


@app.command(name="show")
def show_model(name: str, /, *, as_json: AsJson = False) -> None:
    """Show all there is to know of one model, as YAML.

    Nothing is fetched: a model of the hub is looked for among what was downloaded before.

    Args:
        name: Bundled or published name, Hugging Face id, or folder.
        as_json: Print one JSON object instead of YAML.
    """
    import yaml

    from cogworks.doctor.findings import in_bytes
    from cogworks.weights.components import empty_text_encoder, empty_transformer, empty_vae
    from cogworks.weights.hub import size_on_disk

    variant, files = _find(name)
    networks: dict[str, nn.Module] = {
        "transformer": empty_transformer(variant),
        "vae": empty_vae(variant),
        "text_encoder": empty_text_encoder(variant),
    }
    values: dict[str, Any] = {
        **_summary(variant),
        "files": str(files) if files else "not downloaded",
        **({"size": size_on_disk(files)} if files else {}),
        "parameters": {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()},
        **{key: value for key, value in asdict(variant).items() if key not in ("name", "hub_id")},
    }
    values = _plain(values)
    for_people = {**values, "size": in_bytes(values["size"])} if files else values
    result(yaml.safe_dump(for_people, sort_keys=False).rstrip(), values, as_json=as_json)


@app.command(name="download")
def download_model(
    name: str, /, *, revision: str | None = None, variant: str | None = None, as_json: AsJson = False
) -> None:
    """Fetch a model from the Hugging Face hub, and print its folder.

    Only files that a load reads are fetched, into the cache that all Hugging Face libraries share. What has
    arrived is kept: after an interruption, the same command goes on, also within a large file.

    Args:
        name: Published name or Hugging Face id.
        revision: Branch, tag or commit on the hub.
        variant: Fetch the weight files that carry this precision in their name, for example fp16.
        as_json: Print name, folder and size as one JSON object.
    """
    from cogworks.weights.hub import size_on_disk
    from cogworks.weights.source import download

    folder = download(name, revision=revision, file_variant=variant)
    if name in VARIANTS and VARIANTS[name].hub_id is None:
        say(f"{name} is here already: it came with Cogworks")
    size = size_on_disk(folder.path)
    result(str(folder.path), {"name": name, "path": str(folder.path), "size": size}, as_json=as_json)


@app.command(name="where")
def where_models(name: str | None = None, /, *, as_json: AsJson = False) -> None:
    """Print where models are on this machine, and how much space they take.

    Args:
        name: A model: bundled or published name, Hugging Face id, or folder. If not given: the folder of the bundled
            models, the cache of the hub, and the cache of Cogworks.
        as_json: Print one JSON object instead of lines.
    """
    from cogworks.config.places import cache_folder
    from cogworks.doctor.findings import in_bytes
    from cogworks.weights.hub import hub_cache, size_on_disk
    from cogworks.weights.source import ASSETS

    places = {"bundled models": ASSETS, "hub cache": hub_cache(), "cache of Cogworks": cache_folder()}
    if name is not None:
        _, path = _find(name)
        if path is None:
            raise WeightsError(f"{name} is not on this machine: cogworks models download {name}")
        places = {name: path}
    sizes = {what: size_on_disk(path) for what, path in places.items()}
    rows = [{"what": what, "path": str(path), "size": sizes[what]} for what, path in places.items()]
    cells = [(what, in_bytes(sizes[what]), str(path)) for what, path in places.items()]
    result(_table(cells), {"places": rows}, as_json=as_json)


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


def _state(variant: Variant) -> dict[str, object]:
    """Whether its files are on this machine, for people and for programs."""
    from cogworks.doctor.findings import in_bytes
    from cogworks.weights.hub import HubModel, size_on_disk
    from cogworks.weights.source import resolve

    try:
        path = resolve(variant.name, local_files_only=True).path
    except WeightsError:
        size = size_on_disk(HubModel(variant.hub_id).folder) if variant.hub_id else 0
        return {"here": f"in part, {in_bytes(size)}" if size else "no", "path": None, "size": size}
    size = size_on_disk(path)
    return {"here": in_bytes(size), "path": str(path), "size": size}


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML and JSON both have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
