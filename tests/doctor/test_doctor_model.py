"""`check_model`: sound folders are called sound, and every kind of damage is a finding and no traceback."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogworks.config.variants import COGVIDEOX_5B_I2V, COGVIDEOX_15_5B_I2V
from cogworks.doctor import forward
from cogworks.doctor.findings import SEVERITIES, Report
from cogworks.doctor.model import check_model
from cogworks.errors import WeightsError
from cogworks.weights.source import ASSETS
from helpers.small_folder import SMALL, save_small

Copy = Callable[[str], Path]
Damage = Callable[[Path], object]

VAE = "vae/diffusion_pytorch_model.safetensors"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller clip, where what comes of it is of no account."""
    monkeypatch.setattr(forward, "CLIP_SIDE", 16)


def texts(report: Report, *severities: str) -> list[str]:
    return [f"{each.part}: {each.text}" for each in report.findings if each.severity in severities]


def tensors(name: str, **changes: Any) -> Damage:
    """Damage that replaces, adds or (None) removes tensors of one file; a function changes the tensor that is there."""

    def damage(folder: Path) -> None:
        state = load_file(folder / name)
        for key, change in changes.items():
            key = key.replace("__", ".")
            state[key] = change(state[key]) if callable(change) else change
        (folder / name).unlink()
        save_file({key: tensor for key, tensor in state.items() if tensor is not None}, folder / name)

    return damage


def values(name: str, **changes: object) -> Damage:
    """Damage that changes values of a JSON file."""

    def damage(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps(content))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def write(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([1]), float("nan"))


def test_the_bundled_model_is_sound() -> None:
    seen = []
    report = check_model("tiny", on_progress=lambda what, done, total: seen.append((what, done, total)))
    assert texts(report, "note", "warning", "problem") == []
    assert "configuration: The networks are those of tiny, bundled with Cogworks." in texts(report, "ok")
    (psnr,) = [each.values["psnr"] for each in report.findings if "PSNR" in each.text]
    assert float(str(psnr)) > forward.GOOD_PSNR
    assert {what for what, _, _ in seen} >= {"transformer", "vae", "text_encoder", "trying vae"}
    json.dumps(report.to_json())


def test_random_weights_are_called_that_and_no_failure_of_structure(saved: dict[str, Path]) -> None:
    report = check_model(saved["diffusers"])
    assert report.num_problems == 0
    (warning,) = texts(report, "warning")
    assert re.fullmatch(
        r"vae: A rendered clip comes back with a PSNR of \d\.\d dB: these look like random weights\.", warning
    )
    (note,) = texts(report, "note")
    assert note.startswith("configuration: This is a model of its own, nearest to tiny; published -> here: ")
    assert "transformer.num_layers: 6 -> 1" in note


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("layout", ["shards", "sat"])
def test_other_layouts_are_sound_too(layout: str, saved: dict[str, Path]) -> None:
    report = check_model(saved[layout])
    assert texts(report, "problem") == []
    assert sum("A small pass" in text for text in texts(report, "ok")) == 2
    assert len(texts(report, "warning")) == 1  # the weights are random


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no weights": (remove(VAE), "vae: .* has no weights: expected diffusion_pytorch_model"),
    "cut off": (cut(TRANSFORMER), "transformer: .* is damaged or not a safetensors file"),
    "empty": (write(TEXT, ""), "text_encoder: .* is damaged or not a safetensors file"),
    "NaN": (
        tensors(TEXT, shared__weight=with_nan),
        r"text_encoder: 1 of 12 tensors hold NaN or infinity: shared\.weight",
    ),
    "infinity": (
        tensors(VAE, decoder__conv_in__conv__bias=lambda t: t.fill_(float("-inf"))),
        r"vae: 1 of \d+ tensors hold NaN or infinity: decoder\.conv_in\.conv\.bias",
    ),
    "missing tensor": (tensors(TRANSFORMER, proj_out__bias=None), r"transformer: 1 tensor missing: proj_out\.bias"),
    "unknown tensor": (
        tensors(TRANSFORMER, mystery=torch.ones(1)),
        "transformer: 1 tensor that this network does not have: mystery",
    ),
    "wrong shape": (
        tensors(TRANSFORMER, proj_out__bias=torch.ones(3)),
        r"transformer: 1 tensor of the wrong shape or dtype: proj_out\.bias is \(3,\), expected \(96,\)",
    ),
    "integers": (
        tensors(TRANSFORMER, proj_out__bias=torch.ones(96, dtype=torch.int8)),
        "wrong shape or dtype: proj_out.bias holds torch.int8",
    ),
    "more layers": (
        values("transformer/config.json", num_layers=3),
        r"transformer: 36 tensors missing: .* and 30 more",
    ),
    "another class": (
        values("vae/config.json", _class_name="AutoencoderKL"),
        "vae: .* is the configuration of AutoencoderKL",
    ),
    "a config that is no JSON": (write("transformer/config.json", "{"), "transformer: .* is not readable JSON"),
    "a config that is no object": (write("text_encoder/config.json", "[]"), "text_encoder: .* holds a list"),
    "a value of the wrong type": (values("vae/config.json", norm_num_groups="two"), "vae: .*norm_groups"),
    "no scheduler": (remove(SCHEDULER), "schedule: .*scheduler_config.json does not exist"),
    "betas upside down": (values(SCHEDULER, beta_end=-1), "schedule: Betas from .* give no way from clean to noise"),
    "no shift": (values(SCHEDULER, snr_shift_scale=0), "schedule: .* give no way from clean to noise"),
    "no tokenizer": (remove("tokenizer/spiece.model"), "tokenizer: .* has no tokenizer"),
    "tokenizer cut off": (
        lambda folder: (folder / "tokenizer/spiece.model").write_bytes(b"\x0a\x0e"),
        "tokenizer: .* is not a sentencepiece model",
    ),
    "another tokenizer": (
        lambda folder: shutil.copy(ASSETS / "tiny/tokenizer/spiece.model", folder / "tokenizer"),
        "tokenizer: It has 512 pieces, and the text encoder has 200 rows for them",
    ),
    "widths": (
        values("transformer/config.json", text_embed_dim=48),
        "text_encoder: The text encoder is 32 wide, and the transformer takes 48",
    ),
    "no index": (remove("model_index.json"), "configuration: .*model_index.json does not exist"),
    "another pipeline": (
        values("model_index.json", _class_name="FluxPipeline"),
        "configuration: model_index.json is of a FluxPipeline",
    ),
    "our own file": (write("cogworks.json", '{"name": 3}'), "configuration: .*cogworks.json"),
}


SAT_DAMAGES: dict[str, tuple[Damage, str]] = {
    "no VAE": (remove("vae/3d-vae.pt"), "vae: .* has no VAE: put it at vae/3d-vae.pt"),
    "no text encoder": (lambda folder: shutil.rmtree(folder / "t5-v1_1-xxl"), "text_encoder: .* has no text encoder"),
    "a VAE cut off": (cut("vae/3d-vae.pt"), "vae: .*3d-vae.pt"),
    "a transformer cut off": (cut("transformer/1/mp_rank_00_model_states.pt"), "mp_rank_00_model_states.pt"),
    "an iteration that is not there": (write("transformer/latest", "7"), "configuration: .*names the iteration '7'"),
}
ALL_DAMAGES = {"diffusers": DAMAGES, "sat": SAT_DAMAGES}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("layout", "name"), [(layout, name) for layout, each in ALL_DAMAGES.items() for name in each])
def test_damage_is_a_problem(layout: str, name: str, copy: Copy) -> None:
    damage, expected = ALL_DAMAGES[layout][name]
    folder = copy(layout)
    damage(folder)
    report = check_model(folder)
    problems = texts(report, "problem")
    assert any(re.search(expected, text) for text in problems), problems
    assert all(each.advice for each in report.findings if each.severity == "problem")
    assert all("\n" not in each.text for each in report.findings)


@pytest.mark.usefixtures("_quick")
def test_one_damaged_file_does_not_hide_what_the_others_say(copy: Copy) -> None:
    folder = copy("diffusers")
    write("transformer/config.json", "{")(folder)
    tensors(VAE, decoder__conv_in__conv__bias=with_nan)(folder)
    report = check_model(folder)
    assert len(texts(report, "problem")) == 2
    assert "text_encoder: All numbers are finite." in texts(report, "ok")
    assert "transformer: All numbers are finite." in texts(report, "ok")
    assert [text for text in texts(report, "note") if "Not tried" in text] == [
        "transformer: Not tried: its weights do not fit or are not there.",
        "vae: Not tried: its weights do not fit or are not there.",
    ]


WARNINGS: dict[str, tuple[Damage, str]] = {
    "zeros": (
        tensors(TRANSFORMER, proj_out__weight=torch.zeros_like),
        r"transformer: 1 weight matrices hold nothing but zeros: proj_out\.weight",
    ),
    "two files that disagree": (
        values("vae/config.json", scaling_factor=0.7),
        r"vae: vae/config\.json says scaling_factor 0\.7, cogworks\.json says 1\.0",
    ),
    "a scheduler that disagrees": (
        values(SCHEDULER, prediction_type="epsilon"),
        r"schedule: .*scheduler_config\.json says prediction eps, cogworks\.json says v",
    ),
    "a part left out": (
        lambda folder: (shutil.rmtree(folder / "vae"), values("model_index.json", vae=[None, None])(folder)),
        "vae: The folder says that it does not hold this part",
    ),
}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", WARNINGS)
def test_what_may_be_meant_is_a_warning(name: str, copy: Copy) -> None:
    damage, expected = WARNINGS[name]
    folder = copy("diffusers")
    damage(folder)
    report = check_model(folder)
    assert any(re.match(expected, text) for text in texts(report, "warning")), texts(report, *SEVERITIES)
    assert texts(report, "problem") == []


@pytest.mark.usefixtures("_quick")
def test_a_missing_shard(copy: Copy) -> None:
    folder = copy("shards")
    shard = sorted((folder / "transformer").glob("*-of-*.safetensors"))[1]
    shard.unlink()
    assert any(f"{shard.name} is missing" in text for text in texts(check_model(folder), "problem"))


@pytest.mark.usefixtures("_quick")
def test_published_networks_with_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "cogworks.json").unlink()
    values("vae/config.json", scaling_factor=0.7)(folder)
    values(SCHEDULER, snr_shift_scale=3.0)(folder)
    assert texts(check_model(folder), "warning")[:2] == [
        "configuration: The networks have the sizes of tiny, bundled with Cogworks, but not its settings: "
        "vae.scaling_factor: 1.0 -> 0.7.",
        "schedule: Betas from 0.00085 to 0.012, SNR shift 3, zero terminal SNR, prediction of v, trailing timesteps; "
        "published -> here: snr_shift: 1.0 -> 3.0.",
    ]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("published", [COGVIDEOX_5B_I2V, COGVIDEOX_15_5B_I2V], ids=lambda variant: variant.name)
def test_networks_that_take_an_image_are_tried(published: Any, tmp_path: Path) -> None:
    """The one with a learned position table, whose own size is not small, and the one with a second time input."""
    transformer = replace(
        published.transformer,
        **{name: getattr(SMALL.transformer, name) for name in ("num_layers", "num_heads", "text_width", "text_tokens")},
        in_channels=2 * SMALL.vae.latent_channels,
        out_channels=SMALL.vae.latent_channels,
        head_width=16,
        ofs_width=32 if published.transformer.ofs_width else None,
    )
    folder = save_small(tmp_path / "m", replace(SMALL, transformer=transformer, schedule=published.schedule))
    report = check_model(folder)
    assert texts(report, "problem") == []
    assert any(text.startswith("transformer: A small pass") for text in texts(report, "ok"))


@pytest.mark.usefixtures("_quick")
def test_parts_that_do_not_fit_into_memory_are_not_tried(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "free_memory", lambda device: forward.WORKING_BYTES + 1000)
    notes = [text for text in texts(check_model(saved["diffusers"]), "note") if "Not tried" in text]
    assert len(notes) == 3
    assert re.fullmatch(r"text_encoder: Not tried: it needs \d+ MB of memory, and 500 MB are free\.", notes[0])


@pytest.mark.usefixtures("_quick")
def test_a_stored_dtype_of_half_the_size_is_tried_where_the_usual_one_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tiny is stored in float16 and computed in float32: its transformer has 4.6 million numbers."""
    monkeypatch.setattr(forward, "free_memory", lambda device: forward.WORKING_BYTES + 10_000_000)
    found = {each.part: each for each in check_model("tiny").findings if "A small pass" in each.text}
    assert found["transformer"].values["dtype"] == "float16"
    assert found["text_encoder"].values["dtype"] == "float32"


@pytest.mark.parametrize("path", ["empty", "file", "nowhere"])
def test_what_is_no_model_at_all(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError):
        check_model(tmp_path / path)


@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_random_damage_never_ends_in_a_traceback(layout: str, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files cut, overwritten, emptied or removed at random: a report, or the one error there is for no model."""
    monkeypatch.setattr("cogworks.doctor.model.check_forward", lambda trial, tell: [])
    generator = random.Random(0)
    folder = copy(layout)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(25):
        path = generator.choice(files)
        content = path.read_bytes()
        match generator.randrange(4):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(content[: generator.randrange(len(content))])
            case 2:
                place = generator.randrange(len(content))
                path.write_bytes(content[:place] + generator.randbytes(8) + content[place + 8 :])
            case 3:
                path.write_bytes(b"")
        try:
            report = check_model(folder)
        except WeightsError as error:
            assert "is not a model" in str(error)  # noqa: PT017  most damage leaves a report
        else:
            assert report.findings
        path.write_bytes(content)
