"""The `Variant` of a diffusers folder: read from its configuration files, and written into them.

What those files cannot say (name, frames per second, guidance, the dtype to compute in) comes from `cogworks.json`
where we wrote the folder, else from the published or bundled model that has the same configuration, else from plain
defaults.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from cogworks.config.architecture import EDMScheduleConfig, ScheduleConfig, TransformerConfig, VAEConfig
from cogworks.config.variants import T5_XXL, VARIANTS, GenerationDefaults, Variant
from cogworks.errors import WeightsError
from cogworks.weights import configs, text_configs
from cogworks.weights.config_schema import DIFFUSERS_VERSION, build
from cogworks.weights.shared import part_of
from cogworks.weights.storage import read_json, write_json

logger = logging.getLogger(__name__)

VARIANT_FILE = "cogworks.json"
_PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline")
_DTYPES: Mapping[str, Literal["float32", "float16", "bfloat16"]] = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}


def read_diffusers_variant(folder: Path) -> Variant:
    """The variant of a folder that has `model_index.json` and a subfolder for each component.

    Raises:
        WeightsError: a file is missing or damaged, or is of a model that is not CogVideoX.
    """
    _check_pipeline(folder)
    transformer_file = part_of(folder, "transformer") / "config.json"
    vae_file = part_of(folder, "vae") / "config.json"
    schedule_file = part_of(folder, "scheduler") / "scheduler_config.json"
    text_file = part_of(folder, "text_encoder") / "config.json"
    scheduler = read_json(schedule_file)
    transformer = configs.read_transformer(read_json(transformer_file), str(transformer_file))
    vae = configs.read_vae(read_json(vae_file), str(vae_file))
    schedule = configs.read_schedule(scheduler, str(schedule_file))
    text_encoder = text_configs.read_text_encoder(read_json(text_file), str(text_file)) if text_file.is_file() else None
    row = read_variant_file(folder) or known_variant(transformer, vae, schedule)
    if row is None:
        row = Variant(
            name=folder.resolve().name,
            hub_id=None,
            dtype=_stored_dtype(transformer_file.parent),
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder or T5_XXL,
            schedule=schedule,
            defaults=_plain_defaults(transformer, vae, configs.SAMPLERS.get(scheduler["_class_name"], "ddim")),
        )
    return replace(
        row,
        transformer=replace(transformer, norm_out_eps=row.transformer.norm_out_eps),
        vae=vae,
        text_encoder=text_encoder or row.text_encoder,
        schedule=_spacing(schedule, row, folder),
    )


def write_diffusers_variant(folder: Path, variant: Variant, present: Collection[str]) -> None:
    """Write the configuration files of `variant`; the same variant gives the same bytes.

    Args:
        folder: root of the layout.
        variant: what to write.
        present: those of `transformer`, `vae`, `text_encoder` and `tokenizer` that the folder has weights of; the
            others are marked as absent in `model_index.json`.

    Raises:
        WeightsError: the files cannot say what `variant` says.
    """
    scheduler = configs.write_schedule(variant.schedule, variant.defaults.sampler)
    classes = {
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", text_configs.TEXT_ENCODER_CLASS],
        "tokenizer": ["transformers", text_configs.TOKENIZER_CLASS],
        "transformer": ["diffusers", configs.TRANSFORMER_CLASS],
        "vae": ["diffusers", configs.VAE_CLASS],
    }
    index = {
        "_class_name": _PIPELINES[1 if variant.takes_image else 0],
        "_diffusers_version": DIFFUSERS_VERSION,
        **{name: pair if name in (*present, "scheduler") else [None, None] for name, pair in classes.items()},
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "transformer" / "config.json", configs.write_transformer(variant.transformer))
    write_json(folder / "vae" / "config.json", configs.write_vae(variant.vae))
    if "text_encoder" in present:
        config = text_configs.write_text_encoder(variant.text_encoder)
        write_json(folder / "text_encoder" / "config.json", config)
    write_variant_file(folder, variant)


def read_variant_file(folder: Path) -> Variant | None:
    """The variant in `cogworks.json`, None where there is no such file. Raises WeightsError if it is damaged."""
    path = folder / VARIANT_FILE
    return build(Variant, str(path), **read_json(path)) if path.is_file() else None


def write_variant_file(folder: Path, variant: Variant) -> None:
    """Write all of `variant` to `cogworks.json`."""
    write_json(folder / VARIANT_FILE, asdict(variant))


def known_variant(
    transformer: TransformerConfig, vae: VAEConfig, schedule: ScheduleConfig | EDMScheduleConfig
) -> Variant | None:
    """The published or bundled model with this configuration, if any.

    Copies of one model differ in values without an effect: the largest grid of sliced rotary positions, the image
    scaling of models that take no image, the spacing of timesteps (early copies said "linspace").
    """
    for row in VARIANTS.values():
        sliced = row.transformer.rope == "slice"
        same_transformer = (
            replace(
                transformer,
                sample_size=row.transformer.sample_size if sliced else transformer.sample_size,
                norm_out_eps=row.transformer.norm_out_eps,
            )
            == row.transformer
        )
        invert = vae.invert_scale_latents if row.takes_image else row.vae.invert_scale_latents
        if (
            same_transformer
            and replace(vae, invert_scale_latents=invert) == row.vae
            and _without_spacing(schedule) == _without_spacing(row.schedule)
        ):
            return row
    return None


def _check_pipeline(folder: Path) -> None:
    path = folder / "model_index.json"
    name = read_json(path).get("_class_name")
    if name not in _PIPELINES:
        raise WeightsError(f"{path} is of a {name}, expected one of {', '.join(_PIPELINES)}")


def _without_spacing(schedule: ScheduleConfig | EDMScheduleConfig) -> ScheduleConfig | EDMScheduleConfig:
    return replace(schedule, spacing="trailing") if isinstance(schedule, ScheduleConfig) else schedule


def _spacing(
    schedule: ScheduleConfig | EDMScheduleConfig, row: Variant, folder: Path
) -> ScheduleConfig | EDMScheduleConfig:
    if isinstance(schedule, EDMScheduleConfig) or isinstance(row.schedule, EDMScheduleConfig):
        return schedule
    # SAT's spacing has no name in the file and was written as "trailing".
    if row.schedule.spacing == "sat" and schedule.spacing == "trailing":
        return replace(schedule, spacing="sat")
    # The first copies of the published models said "linspace", and every demo of their authors overrode it.
    if row.hub_id is not None and schedule.spacing == "linspace":
        logger.info("%s: timestep spacing is linspace, using trailing as %s is published now", folder, row.name)
        return replace(schedule, spacing="trailing")
    return schedule


def _plain_defaults(
    transformer: TransformerConfig, vae: VAEConfig, sampler: Literal["ddim", "dpm"]
) -> GenerationDefaults:
    return GenerationDefaults(
        height=transformer.sample_size[0] * vae.spatial_stride,
        width=transformer.sample_size[1] * vae.spatial_stride,
        num_frames=transformer.sample_frames,
        fps=16 if transformer.rope == "slice" else 8,
        steps=50,
        guidance_scale=6.0,
        dynamic_guidance=False,
        sampler=sampler,
    )


def _stored_dtype(folder: Path) -> Literal["float32", "float16", "bfloat16"]:
    """The dtype that most tensors of a component have, from the header of its first file; float32 without files."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
            except ValueError:
                raise WeightsError(f"{path} is damaged or not a safetensors file; fetch it again") from None
        names = Counter(entry["dtype"] for key, entry in header.items() if key != "__metadata__")
        common = [name for name, _ in names.most_common() if name in _DTYPES]
        return _DTYPES[common[0]] if common else "float32"
    return "float32"
