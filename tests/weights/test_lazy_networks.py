"""Networks that are read at their first use, and a text encoder that is kept in fewer bits than it computes in."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogworks.config.variants import TINY
from cogworks.errors import WeightsError
from cogworks.pipelines.quantization import packing_of
from cogworks.weights.files import open_safetensors
from cogworks.weights.fill import Packing
from cogworks.weights.load import Components, inspect_vae, load_components, load_text_encoder
from helpers.peak_memory import mapped_bytes
from helpers.random_models import save_random

VARIANT = replace(
    TINY,
    transformer=replace(TINY.transformer, num_layers=1, num_heads=1, head_width=16, text_width=32, time_width=8),
    vae=replace(TINY.vae, widths=(4, 4, 4, 4)),
    text_encoder=replace(TINY.text_encoder, width=32, head_width=16, num_heads=2, num_layers=2, mlp_width=48),
)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float32], ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose text encoder is stored in each dtype."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models") / "m"
    save_random(place, VARIANT, text_dtype=request.param)
    return place


@pytest.fixture
def components(folder: Path) -> Components:
    return load_components(folder, dtype=torch.float32)


@torch.no_grad()
def test_weights_kept_as_stored_give_the_same_numbers(folder: Path, components: Components) -> None:
    """Bitwise those of weights that are widened when they are read."""
    kept = load_text_encoder(components.folder, components.variant, dtype=torch.float32)
    widened = load_text_encoder(components.folder, components.variant, dtype=torch.float32).float()
    ids = components.tokenizer.encode(["a red circle", ""], 8)
    result = kept(ids)
    assert result.dtype == torch.float32
    assert torch.equal(result, widened(ids))
    stored = open_safetensors(folder / "text_encoder" / "model.safetensors")["shared.weight"].dtype
    assert kept.blocks[1].mlp.gate.weight.dtype == stored
    assert kept.embed.weight.dtype == kept.blocks[1].norm1.weight.dtype == torch.float32
    if stored != torch.float32:  # negative control: computing in what is stored gives other numbers
        narrow = load_text_encoder(components.folder, components.variant, dtype=stored)
        assert (narrow(ids).float() - result).abs().max() > 1e-4


def test_a_form_is_what_the_network_will_be(components: Components) -> None:
    for network in components.networks:
        form, found = network.form, list(network.get().parameters())
        assert form.num_bytes == sum(parameter.nbytes for parameter in found)
        assert form.dtype == torch.float32
    assert components.text_dtype == components.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "device", "expected"), [("float32", "cpu", True), ("bfloat16", "cpu", False), ("float32", "cuda", False)]
)
def test_what_is_used_as_it_is_stored_stays_in_its_file(
    folder: Path, components: Components, dtype: str, device: str, expected: bool
) -> None:
    form = inspect_vae(components.folder, components.variant, dtype=getattr(torch, dtype), device=device)
    assert form.in_file == expected
    encoder = components.networks.text_encoder.form
    stored = {tensor.dtype for tensor in open_safetensors(folder / "text_encoder" / "model.safetensors").values()}
    assert encoder.in_file == (stored == {torch.float32})


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
@pytest.mark.parametrize("packing", [None, packing_of("int8-weights")], ids=["converted", "packed"])
def test_a_file_is_not_in_memory_beside_what_is_made_of_it(tmp_path: Path, packing: Packing | None) -> None:
    folder = tmp_path / "m"
    save_random(folder, TINY)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    dtype = torch.bfloat16 if packing is None else torch.float32
    transformer = load_components(folder, dtype=dtype, packing=packing).networks.transformer
    mapped: list[int] = []
    transformer.get(lambda done, total: mapped.append(mapped_bytes(file)))
    assert 0 < max(mapped) < 0.3 * file.stat().st_size
    assert mapped_bytes(file) == 0


def test_a_text_encoder_may_compute_in_another_dtype(folder: Path) -> None:
    components = load_components(folder, dtype=torch.float32, text_dtype=torch.bfloat16)
    assert (components.dtype, components.text_dtype) == (torch.float32, torch.bfloat16)
    assert {parameter.dtype for parameter in components.text_encoder.parameters()} == {torch.bfloat16}


def test_a_network_is_dropped_unless_somebody_has_it(components: Components) -> None:
    network = components.networks.vae
    first = network.get()
    assert network.get() is first
    assert network.drop()
    assert not network.loaded
    assert components.vae is network.get()
    assert not network.drop()
    assert components.vae is network.get()


def test_a_file_that_vanished_is_missed_when_it_is_read(components: Components, folder: Path, tmp_path: Path) -> None:
    components.networks.vae.drop()
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(tmp_path / "away")
    with pytest.raises(WeightsError, match="has no weights"):
        components.networks.vae.get()
    (tmp_path / "away").rename(path)
    components.networks.vae.get()
