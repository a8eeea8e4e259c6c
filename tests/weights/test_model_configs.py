"""Configuration files of diffusers and transformers: both ways, byte for byte, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cogworks.config.variants import COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_15_5B, COGVIDEOX_15_5B_I2V, VARIANTS, Variant
from cogworks.errors import WeightsError
from cogworks.weights import configs, text_configs
from cogworks.weights.variant_files import (
    known_variant,
    read_diffusers_variant,
    read_variant_file,
    write_diffusers_variant,
    write_variant_file,
)
from helpers.small_models import SCHEDULE, TRANSFORMER, VAE, VARIATIONS, t5_config

ALL = ("transformer", "vae", "text_encoder", "tokenizer")
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


@every_variant
def test_written_files_are_read_back(variant: Variant, tmp_path: Path) -> None:
    write_diffusers_variant(tmp_path, variant, ALL)
    assert read_diffusers_variant(tmp_path) == variant


@every_variant
def test_without_our_file_the_variant_is_recognised(variant: Variant, tmp_path: Path) -> None:
    write_diffusers_variant(tmp_path, variant, ALL)
    (tmp_path / "cogworks.json").unlink()
    assert read_diffusers_variant(tmp_path) == variant


@every_variant
def test_the_same_variant_gives_the_same_bytes(variant: Variant, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_diffusers_variant(tmp_path / name, variant, ALL)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.json")]
    assert len(files) == 6
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


@every_variant
def test_diffusers_reads_what_we_write_and_knows_every_key(variant: Variant) -> None:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler
    from diffusers import CogVideoXTransformer3DModel as Theirs

    for kind, written in (
        (AutoencoderKLCogVideoX, configs.write_vae(variant.vae)),
        (Theirs, configs.write_transformer(variant.transformer)),
        (
            CogVideoXDDIMScheduler if variant.defaults.sampler == "ddim" else CogVideoXDPMScheduler,
            configs.write_schedule(variant.schedule, variant.defaults.sampler),
        ),
    ):
        used, unused, _ = kind.extract_init_dict(dict(written))
        assert unused == {}
        assert {"_class_name", "_diffusers_version", *used} == set(written)
        assert {key for key in kind._get_init_keys(kind) if key != "self"} == set(used)
        assert written["_class_name"] == kind.__name__


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_configuration_that_diffusers_saved(variation: str, tmp_path: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    CogVideoXTransformer3DModel(**{**TRANSFORMER, **VARIATIONS[variation]}).save_config(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    config = configs.read_transformer(saved, "config")
    assert (config.rope, config.position_table) == {
        "2b": ("none", "sincos"),
        "5b": ("crop", "none"),
        "5b-i2v": ("crop", "learned"),
        "1.5": ("slice", "none"),
        "1.5-i2v": ("slice", "none"),
    }[variation]
    version = {"_diffusers_version": saved["_diffusers_version"]}
    assert configs.write_transformer(config) | version == saved


def test_other_components_that_diffusers_saved(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler

    AutoencoderKLCogVideoX(**VAE).save_config(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    version = {"_diffusers_version": saved["_diffusers_version"]}
    assert configs.write_vae(configs.read_vae(saved, "vae")) | version == saved
    CogVideoXDPMScheduler(**SCHEDULE).save_config(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert configs.write_schedule(configs.read_schedule(saved, "scheduler"), "dpm") | version == saved
    config = text_configs.read_text_encoder(t5_config().to_dict(), "text")
    assert (config.width, config.head_width, config.num_heads, config.num_layers) == (32, 8, 4, 2)
    assert (config.vocab_size, config.mlp_width, config.relative_buckets) == (256, 48, 32)


def test_keys_that_older_files_lack_have_the_values_of_2b() -> None:
    config = configs.write_transformer(COGVIDEOX_2B.transformer)
    older = {k: v for k, v in config.items() if k not in ("ofs_embed_dim", "patch_size_t", "patch_bias", "norm_eps")}
    assert configs.read_transformer(older, "config") == COGVIDEOX_2B.transformer
    schedule = configs.read_schedule({"_class_name": "CogVideoXDDIMScheduler"}, "scheduler")
    assert (schedule.prediction, schedule.spacing, schedule.zero_terminal_snr) == ("eps", "leading", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet3DConditionModel"}, "configuration of UNet3DConditionModel, expected CogVideoXTransf"),
        ({"attention_bias": False}, "attention_bias is False, only True is supported"),
        ({"activation_fn": "gelu"}, "activation_fn is 'gelu'"),
        ({"new_feature": 3}, "unknown key 'new_feature' with the value 3"),
        ({"num_layers": "many"}, "num_layers: .* got 'many'"),
        ({"in_channels": 17}, "in_channels must be 16 or 32, got 17"),
        ({"patch_bias": False}, "patch_bias is false without patch_size_t"),
        ({"use_learned_positional_embeddings": True}, "needs use_rotary_positional_embeddings"),
    ],
)
def test_what_the_transformer_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=f"^some/config.json.*{message}"):
        configs.read_transformer({**configs.write_transformer(COGVIDEOX_2B.transformer), **change}, "some/config.json")


@pytest.mark.parametrize("change", [{"new_feature": None}, {"new_feature": False}, {"_note": 1}, {"dropout": 0.1}])
def test_keys_without_effect_are_tolerated(change: dict[str, Any]) -> None:
    config = {**configs.write_transformer(COGVIDEOX_2B.transformer), **change}
    assert configs.read_transformer(config, "config") == COGVIDEOX_2B.transformer


def test_what_the_other_components_cannot_be() -> None:
    vae = configs.write_vae(COGVIDEOX_2B.vae)
    for change in ({"use_quant_conv": True}, {"latents_mean": [0.0]}, {"down_block_types": ["DownBlock3D"] * 4}):
        with pytest.raises(WeightsError, match=r"vae/config.json"):
            configs.read_vae({**vae, **change}, "vae/config.json")
    schedule = configs.write_schedule(COGVIDEOX_2B.schedule, "ddim")
    for change in ({"beta_schedule": "linear"}, {"_class_name": "EulerDiscreteScheduler"}, {"prediction_type": "flow"}):
        with pytest.raises(WeightsError, match=r"scheduler_config.json"):
            configs.read_schedule({**schedule, **change}, "scheduler_config.json")
    with pytest.raises(WeightsError, match="feed-forward relu, expected t5 with gated-gelu"):
        text_configs.read_text_encoder({"model_type": "t5", "feed_forward_proj": "relu"}, "config")
    with pytest.raises(WeightsError, match="does not say vocab_size"):
        text_configs.read_text_encoder({"model_type": "t5", "feed_forward_proj": "gated-gelu"}, "config")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_size": (1, 2, 4)}, "patches of 2 x 4"),
        ({"patch_size": (2, 2, 2)}, "patches of 2 latent frames with rope 'crop'"),
        ({"rope": "none"}, "rope 'none' with table 'none'"),
        ({"mlp_ratio": 3}, "mlp_ratio 3"),
    ],
)
def test_what_diffusers_cannot_say_is_not_written(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=f"cannot hold a transformer with {named}"):
        configs.write_transformer(replace(COGVIDEOX_5B.transformer, **change))


def test_copies_of_a_published_model_are_that_model() -> None:
    """Published copies differ in the largest rotary grid, the spacing and, without an image, the image scaling."""
    transformer = replace(COGVIDEOX_15_5B.transformer, sample_size=(96, 170))
    vae = replace(COGVIDEOX_15_5B.vae, invert_scale_latents=False)
    schedule = replace(COGVIDEOX_15_5B.schedule, spacing="linspace")
    assert known_variant(transformer, vae, schedule) == COGVIDEOX_15_5B
    image = replace(transformer, in_channels=32, ofs_width=512)
    assert known_variant(image, COGVIDEOX_15_5B.vae, schedule) == COGVIDEOX_15_5B_I2V
    assert known_variant(image, vae, schedule) is None
    assert known_variant(replace(transformer, num_layers=41), vae, schedule) is None


def test_linspace_of_early_copies_is_read_as_trailing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    early = replace(COGVIDEOX_2B, schedule=replace(COGVIDEOX_2B.schedule, spacing="linspace"))
    write_diffusers_variant(tmp_path, early, ALL)
    (tmp_path / "cogworks.json").unlink()
    with caplog.at_level("INFO"):
        assert read_diffusers_variant(tmp_path) == COGVIDEOX_2B
    assert "linspace" in caplog.text


def test_an_unknown_model_gets_plain_defaults(tmp_path: Path) -> None:
    other = replace(COGVIDEOX_5B, transformer=replace(COGVIDEOX_5B.transformer, num_layers=3))
    write_diffusers_variant(tmp_path / "mine", other, ALL)
    (tmp_path / "mine" / "cogworks.json").unlink()
    variant = read_diffusers_variant(tmp_path / "mine")
    assert (variant.name, variant.hub_id, variant.dtype) == ("mine", None, "float32")
    assert (variant.transformer, variant.vae, variant.schedule) == (other.transformer, other.vae, other.schedule)
    assert (variant.defaults.height, variant.defaults.width, variant.defaults.num_frames) == (480, 720, 49)
    assert (variant.defaults.sampler, variant.defaults.dynamic_guidance) == ("dpm", False)


def test_our_file_keeps_what_diffusers_cannot_say(tmp_path: Path) -> None:
    variant = replace(
        COGVIDEOX_5B,
        name="mine",
        unconditional="zeros",
        transformer=replace(COGVIDEOX_5B.transformer, norm_out_eps=1e-6),
        schedule=replace(COGVIDEOX_5B.schedule, spacing="sat"),
        defaults=replace(COGVIDEOX_5B.defaults, fps=12),
    )
    write_diffusers_variant(tmp_path, variant, ALL)
    assert read_diffusers_variant(tmp_path) == variant
    assert json.loads((tmp_path / "scheduler/scheduler_config.json").read_text())["timestep_spacing"] == "trailing"


def test_a_damaged_variant_file_names_the_value(tmp_path: Path) -> None:
    write_variant_file(tmp_path, COGVIDEOX_2B)
    content = json.loads((tmp_path / "cogworks.json").read_text())
    content["vae"]["norm_groups"] = "many"
    (tmp_path / "cogworks.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"cogworks\.json: vae\.norm_groups: .* got 'many'"):
        read_variant_file(tmp_path)


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    write_diffusers_variant(tmp_path, COGVIDEOX_2B, ALL)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "CogVideoXFunControlPipeline"}))
    with pytest.raises(WeightsError, match="is of a CogVideoXFunControlPipeline"):
        read_diffusers_variant(tmp_path)


def test_absent_components_are_marked(tmp_path: Path) -> None:
    write_diffusers_variant(tmp_path, COGVIDEOX_2B, ("transformer",))
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == index["tokenizer"] == index["vae"] == [None, None]
    assert index["transformer"] == ["diffusers", "CogVideoXTransformer3DModel"]
    assert read_diffusers_variant(tmp_path) == COGVIDEOX_2B
