"""`cogworks doctor MODEL`: all that can be said of a folder before it is trusted with a long run. Uses no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cogworks.doctor.configuration import Configuration, check_configuration
from cogworks.doctor.findings import Finding, Report
from cogworks.doctor.forward import Trial, check_forward
from cogworks.doctor.hardware import devices
from cogworks.doctor.tensors import READ_ERRORS, check_tensors
from cogworks.doctor.text import check_text
from cogworks.errors import WeightsError
from cogworks.weights.components import (
    Component,
    empty_text_encoder,
    empty_transformer,
    empty_vae,
    open_text_encoder,
    open_transformer,
    open_vae,
)
from cogworks.weights.source import ModelFolder, resolve

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cogworks.config.variants import Variant

OnProgress = Callable[[str, int, int], None]

_EMPTY: dict[str, Callable[[Variant], nn.Module]] = {
    "transformer": empty_transformer,
    "vae": empty_vae,
    "text_encoder": empty_text_encoder,
}


def check_model(
    source: str | Path,
    *,
    file_variant: str | None = None,
    device: torch.device | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Look at everything in the folder of a model.

    Args:
        source: a name, a hub id of what was downloaded before, or a folder.
        file_variant: read the weight files that carry this precision in their name.
        device: where to try the networks; None takes the one that a load would take.
        on_progress: called with what is being looked at, how much is done, and how much there is.

    Raises:
        WeightsError: there is no model at all.
    """
    tell = on_progress or (lambda what, done, total: None)
    folder, findings = _locate(source, file_variant)
    try:
        configuration, found = check_configuration(folder)
    except READ_ERRORS as error:
        advice = "Nothing else can be judged until this is put right."
        return Report(str(source), (*findings, Finding("problem", "configuration", f"{error}.", advice)))
    findings += found
    sound: dict[str, Component] = {}
    for part in _EMPTY:
        component, found = _check_part(part, folder, configuration, tell)
        findings += found
        if component is not None and all(each.severity != "problem" for each in found):
            sound[part] = component
    found = check_text(folder, configuration)
    findings += found
    if any(each.severity == "problem" for each in found):
        sound.pop("text_encoder", None)
    trial = Trial(folder, configuration.variant, device or devices()[0], sound)
    findings += check_forward(trial, lambda part: tell(f"trying {part}", 0, 1))
    return Report(str(source), tuple(findings))


def _locate(source: str | Path, file_variant: str | None) -> tuple[ModelFolder, list[Finding]]:
    """The folder; one that has lost its `model_index.json` is still looked at."""
    try:
        folder = resolve(source, local_files_only=True, file_variant=file_variant)
    except WeightsError:
        path = Path(source).expanduser()
        if not (path / "transformer" / "config.json").is_file():
            raise
        return ModelFolder(path, "diffusers", file_variant), []
    return folder, [Finding("ok", "folder", f"{folder.path}, in the layout of {_LAYOUTS[folder.layout]}.")]


_LAYOUTS = {"diffusers": "diffusers", "sat": "SAT"}


def _check_part(
    part: str, folder: ModelFolder, configuration: Configuration, tell: OnProgress
) -> tuple[Component | None, list[Finding]]:
    if part in configuration.absent:
        text = "The folder says that it does not hold this part."
        return None, [Finding("warning", part, text, "Take it from the model that the folder belongs to.")]
    try:
        component = _open(part, folder, configuration.variant)
    except READ_ERRORS as error:
        return None, [Finding("problem", part, f"{str(error).rstrip('.')}.", "Fetch what is missing or damaged again.")]
    if part in configuration.unread:
        return None, check_tensors(part, component, None, tell)
    return component, check_tensors(part, component, _EMPTY[part](configuration.variant), tell)


def _open(part: str, folder: ModelFolder, variant: Variant) -> Component:
    match part:
        case "transformer":
            return open_transformer(folder, variant)
        case "vae":
            return open_vae(folder, variant)
    return open_text_encoder(folder)
