"""Which published model a folder is by its configuration, and where it departs from that.

Every file is read on its own, so that one that is damaged does not hide what the others say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cogworks.config.architecture import (
    EDMScheduleConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from cogworks.config.variants import VARIANTS, Variant
from cogworks.doctor.findings import Finding, listed
from cogworks.errors import WeightsError
from cogworks.weights.configs import read_schedule, read_transformer, read_vae
from cogworks.weights.sat_files import find_sat
from cogworks.weights.sat_state import infer_sat_variant
from cogworks.weights.source import ModelFolder
from cogworks.weights.storage import read_json
from cogworks.weights.text_configs import read_text_encoder
from cogworks.weights.variant_files import VARIANT_FILE, read_variant_file

T = TypeVar("T")
Readers = Mapping[str, tuple[str, Callable[[Mapping[str, Any], str], Any]]]

_FILES: Readers = {
    "transformer": ("transformer/config.json", read_transformer),
    "vae": ("vae/config.json", read_vae),
    "text_encoder": ("text_encoder/config.json", read_text_encoder),
    "schedule": ("scheduler/scheduler_config.json", read_schedule),
}
_ABSENT = [None, None]  # how model_index.json marks a part that the folder does not have
# Fields that shapes of tensors depend on: where they differ, it is another network and not a wrong setting.
_SIZES = {
    *("num_layers", "num_heads", "head_width", "in_channels", "out_channels", "patch_size", "text_width", "time_width"),
    *("rope", "position_table", "ofs_width", "mlp_ratio", "widths", "latent_channels", "layers_per_block"),
    *("image_channels", "vocab_size", "width", "mlp_width", "relative_buckets"),
}
_FETCH = "Fetch the file again from where the model came from."
_AS_PUBLISHED = "Unless the model was trained so, put the published values back."


@dataclass
class Configuration:
    """What a folder says it is.

    Attributes:
        variant: of what could be read, and of the nearest known model elsewhere.
        nearest: the published or bundled model that has most values in common with it.
        unread: those of `_FILES` that could not be read.
        absent: parts that the folder says it does not have.
    """

    variant: Variant
    nearest: Variant
    unread: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Departure:
    """A value that differs from the published one."""

    part: str
    name: str
    published: object
    here: object

    def __str__(self) -> str:
        return f"{self.part}.{self.name}: {self.published} -> {self.here}"


def check_configuration(folder: ModelFolder) -> tuple[Configuration, list[Finding]]:
    """Read all configuration of a folder and compare it with the models there are.

    Raises:
        WeightsError: nothing of it can be read.
    """
    findings: list[Finding] = []
    if folder.layout == "sat":
        return _check_sat(folder)
    absent = _check_index(folder.path, findings)
    named = _attempt(findings, "configuration", lambda: read_variant_file(folder.path))
    read: dict[str, Any] = {}
    for part, (name, reader) in _FILES.items():
        path = folder.part(Path(name).parent.name) / Path(name).name
        if part in absent and not path.is_file():
            continue
        found = _attempt(findings, part, lambda path=path, reader=reader: reader(read_json(path), str(path)))  # type: ignore[misc]
        if found is not None:
            read[part] = found
    if not read:
        raise WeightsError(f"{folder.path} is not a model: none of its configuration files can be read")
    nearest = _nearest(read)
    variant = replace(named or nearest, **read)
    configuration = Configuration(variant, nearest, set(_FILES) - set(read) - absent, absent)
    if named is not None:
        findings += _contradictions(named, read)
    return configuration, findings + compare(configuration, on_purpose=named is not None and named.name not in VARIANTS)


def _check_sat(folder: ModelFolder) -> tuple[Configuration, list[Finding]]:
    findings: list[Finding] = []
    files = find_sat(folder.path)
    # A damaged VAE has its own finding when its tensors are read.
    variant = _attempt([], "", lambda: infer_sat_variant(files))
    if variant is None:
        variant = infer_sat_variant(replace(files, vae=None))
    known = {part: getattr(variant, part) for part in _FILES}
    configuration = Configuration(variant, _nearest(known))
    text = "A SAT folder holds no noise schedule: it is that of the published model."
    findings.append(Finding("note", "schedule", text))
    return configuration, findings + compare(configuration, on_purpose=variant.name not in VARIANTS)


def compare(configuration: Configuration, *, on_purpose: bool) -> list[Finding]:
    """Say which model it is and where it departs from it.

    Args:
        on_purpose: the folder has a name of its own for what it is, so other values are no surprise.
    """
    variant, nearest, unread = configuration.variant, configuration.nearest, configuration.unread
    differing = [each for each in departures(variant, nearest) if each.part not in unread]
    networks = [each for each in differing if each.part != "schedule"]
    same_sizes = not any(each.name in _SIZES for each in networks)
    surprise = same_sizes and not on_purpose
    origin = "bundled with Cogworks" if nearest.hub_id is None else f"published as {nearest.hub_id}"
    values: dict[str, object] = {
        "name": variant.name,
        "nearest": nearest.name,
        "departures": [{**asdict(each), "text": str(each)} for each in differing],
    }
    if not networks:
        text = f"The networks are those of {nearest.name}, {origin}."
        findings = [Finding("ok", "configuration", text, values=values)]
    elif surprise:
        text = f"The networks have the sizes of {nearest.name}, {origin}, but not its settings: {_list(networks)}."
        findings = [Finding("warning", "configuration", text, _AS_PUBLISHED, values)]
    else:
        text = f"This is a model of its own, nearest to {nearest.name}; published -> here: {_list(networks)}."
        findings = [Finding("note", "configuration", text, values=values)]
    if "schedule" not in unread:
        findings.append(_compare_schedule(variant, [each for each in differing if each.part == "schedule"], surprise))
    return findings


def _list(differing: Sequence[Departure]) -> str:
    return listed([str(each) for each in differing])


def _compare_schedule(variant: Variant, differing: Sequence[Departure], surprise: bool) -> Finding:
    from cogworks.diffusion.schedule import alpha_table

    schedule = variant.schedule
    values = asdict(schedule)
    if isinstance(schedule, EDMScheduleConfig):
        text = f"Noise levels of EDM from {schedule.sigma_max:g} to {schedule.sigma_min:g} with rho {schedule.rho:g} "
        text += f"and sigma_data {schedule.prediction.sigma_data:g}, where the published models have a table."
        return Finding("note", "schedule", text, values=values)
    try:
        alpha = alpha_table(schedule)
        sound = bool(alpha.isfinite().all() and (alpha.diff() < 0).all() and alpha[-1] >= 0 and alpha[0] <= 1)
    except (ValueError, RuntimeError):
        sound = False
    if not sound:
        betas = f"{schedule.beta_start:g} to {schedule.beta_end:g}"
        text = f"Betas from {betas} in {schedule.num_timesteps} timesteps with an SNR shift of {schedule.snr_shift:g} "
        text += "give no way from clean to noise."
        return Finding("problem", "schedule", text, _AS_PUBLISHED, values)
    text = f"Betas from {schedule.beta_start:g} to {schedule.beta_end:g}, SNR shift {schedule.snr_shift:g}, "
    text += f"{'zero' if schedule.zero_terminal_snr else 'no zero'} terminal SNR, prediction of {schedule.prediction}, "
    text += f"{schedule.spacing} timesteps"
    if not differing:
        return Finding("ok", "schedule", f"{text}: as published.", values=values)
    names = listed([f"{each.name}: {each.published} -> {each.here}" for each in differing])
    text = f"{text}; published -> here: {names}."
    if surprise:
        return Finding("warning", "schedule", text, _AS_PUBLISHED, values)
    return Finding("note", "schedule", text, values=values)


def departures(variant: Variant, known: Variant) -> list[Departure]:
    """Where the configuration of `variant` differs from that of `known`, values without an effect left out.

    Copies of one model differ in the largest grid of sliced rotary positions, in the image scaling of models that take
    no image, and in spacings that a load reads as one; no diffusers folder can say `norm_out_eps`.
    """
    quiet = {("transformer", "norm_out_eps")}
    if variant.transformer.rope == "slice":
        quiet.add(("transformer", "sample_size"))
    if not variant.takes_image:
        quiet.add(("vae", "invert_scale_latents"))
    if _spacing(known) in ("sat", "trailing") and _spacing(variant) in ("sat", "trailing", "linspace"):
        quiet.add(("schedule", "spacing"))
    return [
        Departure(part, name, published, here)
        for part in _FILES
        for name, published, here in _differences(getattr(known, part), getattr(variant, part))
        if (part, name) not in quiet
    ]


def _spacing(variant: Variant) -> str | None:
    return variant.schedule.spacing if isinstance(variant.schedule, ScheduleConfig) else None


def _differences(known: Any, here: Any) -> list[tuple[str, object, object]]:
    if type(known) is not type(here):  # two kinds of noise schedule
        return [("kind", type(known).__name__, type(here).__name__)]
    values = ((each.name, getattr(known, each.name), getattr(here, each.name)) for each in fields(known))
    return [(name, published, found) for name, published, found in values if published != found]


def _nearest(
    read: Mapping[str, TransformerConfig | VAEConfig | TextEncoderConfig | ScheduleConfig | EDMScheduleConfig],
) -> Variant:
    """The known model that differs in the fewest fields of what could be read."""

    def distance(row: Variant) -> int:
        return len([each for each in departures(replace(row, **read), row) if each.part in read])  # type: ignore[arg-type]

    return min(VARIANTS.values(), key=distance)


def _contradictions(named: Variant, read: Mapping[str, Any]) -> list[Finding]:
    """Where the configuration files do not say what `cogworks.json`, written with them, says."""
    findings = []
    for part in departures(replace(named, **read), named):
        text = f"{_FILES[part.part][0]} says {part.name} {part.here}, {VARIANT_FILE} says {part.published}."
        advice = "The first is what is used; put right the one that is wrong."
        findings.append(Finding("warning", part.part, text, advice, {**asdict(part)}))
    return findings


def _check_index(folder: Path, findings: list[Finding]) -> set[str]:
    """The parts that `model_index.json` marks as absent."""
    index = _attempt(findings, "configuration", lambda: read_json(folder / "model_index.json"))
    if index is None:
        return set()
    kind = str(index.get("_class_name"))
    if not kind.startswith("CogVideoX"):
        text = f"model_index.json is of a {kind}, and not of a pipeline of the CogVideoX family."
        findings.append(Finding("problem", "configuration", text, _FETCH))
    return {name for name, value in index.items() if value == _ABSENT}


def _attempt(findings: list[Finding], part: str, read: Callable[[], T]) -> T | None:
    """What `read` gives; None and a finding if it cannot."""
    try:
        return read()
    except WeightsError as error:
        findings.append(Finding("problem", part, f"{error}.".replace("..", "."), _FETCH))
        return None
