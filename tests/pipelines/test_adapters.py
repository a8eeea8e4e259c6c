"""LoRAs on a pipeline's transformer. That they behave like diffusers' is in tests/weights/test_lora_peft.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogworks.config.request import LoRAUse
from cogworks.errors import ExtensionError, RequestError, WeightsError
from cogworks.extensions.attach import Wrapper
from cogworks.extensions.lora import lora_names
from cogworks.models.transformer import Transformer
from cogworks.nn.low_rank import LowRank
from cogworks.pipelines.adapters import Adapters, apply_loras
from cogworks.weights.lora_write import write_lora
from helpers.lora_factors import attention_pairs, inputs, small_transformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`one.safetensors` and `two.safetensors`, for `small_transformer`; `wide.safetensors` for a larger one."""
    for seed, name in enumerate(("one", "two")):
        write_lora(tmp_path / f"{name}.safetensors", attention_pairs(small_transformer(), seed=seed), "diffusers")
    wide = LowRank("blocks.0.attention.out", (), torch.zeros(1, 1920), torch.zeros(1920, 1), 1.0)
    write_lora(tmp_path / "wide.safetensors", [wide], "kohya")
    return tmp_path


@torch.no_grad()
def run(transformer: Transformer) -> Tensor:
    return transformer(*inputs())


def is_bare(transformer: Transformer) -> bool:
    return not any(isinstance(module, Wrapper) for module in transformer.modules())


def test_apply_loras_is_undone_bitwise(folder: Path) -> None:
    transformer = small_transformer()
    plain = run(transformer)
    with apply_loras(transformer, [(folder / "one.safetensors", 0.8), (str(folder / "two.safetensors"), -0.3)]):
        assert sorted(lora_names(transformer)) == ["one", "two"]
        both = run(transformer)
    assert torch.equal(run(transformer), plain)
    assert (both - plain).abs().max() > 0.01
    with apply_loras(transformer, []):
        assert torch.equal(run(transformer), plain)


def test_one_file_twice_and_names_that_are_taken(folder: Path) -> None:
    transformer, path = small_transformer(), folder / "one.safetensors"
    with apply_loras(transformer, [(path, 0.5), (path, 0.25)]):
        assert sorted(lora_names(transformer)) == ["one", "one_2"]
        twice = run(transformer)
        with apply_loras(transformer, [(path, 0.0)]):
            assert "one_3" in lora_names(transformer)
            assert torch.equal(run(transformer), twice)
    with apply_loras(transformer, [(path, 0.75)]):
        torch.testing.assert_close(run(transformer), twice, atol=1e-5, rtol=0)


def test_a_name_of_a_file_that_is_no_name(folder: Path) -> None:
    path = folder / "my style (v1.2).safetensors"
    path.write_bytes((folder / "one.safetensors").read_bytes())
    transformer = small_transformer()
    with apply_loras(transformer, [(path, 1.0)]):
        assert lora_names(transformer) == ["my_style_v1_2_"]


def test_a_lora_for_another_model_attaches_nothing(folder: Path) -> None:
    transformer = small_transformer()
    uses = [(folder / "one.safetensors", 1.0), (folder / "wide.safetensors", 1.0)]
    with pytest.raises(WeightsError, match=r"for another model: .* cogvideox-2b|for another model"):
        apply_loras(transformer, uses)
    assert is_bare(transformer)


def test_loading_activates_and_unloading_restores_bitwise(folder: Path) -> None:
    transformer = small_transformer()
    plain, adapters = run(transformer), Adapters(transformer)
    adapters.load_lora_weights(folder, "first", weight_name="one.safetensors")
    first = run(transformer)
    adapters.load_lora_weights(folder / "two.safetensors")
    assert adapters.get_active_adapters() == ["default_1"]
    assert adapters.get_list_adapters() == {"transformer": ["first", "default_1"]}
    adapters.set_adapters("first")
    assert torch.equal(run(transformer), first)
    adapters.set_adapters(["first", "default_1"], [0.0, None])
    adapters.delete_adapters("first")
    assert adapters.get_active_adapters() == ["default_1"]
    adapters.load_lora_weights(folder / "one.safetensors")
    assert adapters.get_list_adapters() == {"transformer": ["default_1", "default_2"]}  # no name is given twice
    adapters.delete_adapters("default_2")
    assert torch.equal(run(transformer), plain)
    adapters.load_lora_weights(folder / "one.safetensors", "first")
    adapters.set_adapters("first", 1.0)
    assert torch.equal(run(transformer), first)
    adapters.unload_lora_weights()
    assert is_bare(transformer)
    assert torch.equal(run(transformer), plain)
    assert not torch.equal(first, plain)


def test_fusing_and_taking_out_again(folder: Path) -> None:
    transformer = small_transformer()
    plain, adapters = run(transformer), Adapters(transformer)
    adapters.load_lora_weights(folder / "one.safetensors", "one")
    adapters.load_lora_weights(folder / "two.safetensors", "two")
    adapters.set_adapters(["one", "two"], [0.5, 0.25])
    attached = run(transformer)
    adapters.fuse_lora()
    torch.testing.assert_close(run(transformer), attached, atol=1e-5, rtol=0)
    adapters.unfuse_lora()
    assert torch.equal(run(transformer), attached)
    adapters.fuse_lora(lora_scale=0.0)
    assert torch.equal(run(transformer), plain)
    adapters.unfuse_lora()
    adapters.fuse_lora(adapter_names=["two"])
    only_two = run(transformer)
    adapters.unfuse_lora()
    adapters.set_adapters("two", 0.25)
    torch.testing.assert_close(run(transformer), only_two, atol=1e-5, rtol=0)


def test_what_is_fused_stays_when_unloaded(folder: Path) -> None:
    transformer = small_transformer()
    plain, adapters = run(transformer), Adapters(transformer)
    adapters.load_lora_weights(folder / "one.safetensors")
    adapters.fuse_lora()
    fused = run(transformer)
    adapters.unload_lora_weights()
    assert is_bare(transformer)
    assert torch.equal(run(transformer), fused)
    assert not torch.equal(fused, plain)
    adapters.load_lora_weights(folder / "two.safetensors")  # and there is a new beginning


def test_used_for_a_block_beside_what_is_active(folder: Path) -> None:
    transformer = small_transformer()
    adapters = Adapters(transformer)
    adapters.load_lora_weights(folder / "one.safetensors", "one")
    active = run(transformer)
    with adapters.used([LoRAUse(path=folder / "two.safetensors", scale=0.5)]):
        assert sorted(lora_names(transformer)) == ["one", "two"]
        assert not torch.equal(run(transformer), active)
        with pytest.raises(ExtensionError, match="wrapped again"):
            adapters.set_adapters("one", 0.5)
    assert torch.equal(run(transformer), active)
    with pytest.raises(RuntimeError, match="stop"), adapters.used([LoRAUse(path=folder / "two.safetensors")]):
        raise RuntimeError("stop")
    assert torch.equal(run(transformer), active)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a, f: a.load_lora_weights(f / "two.safetensors", "one"), "named 'one' is loaded already"),
        (lambda a, f: a.set_adapters("uno"), "no LoRA named 'uno' is loaded; there are: one"),
        (lambda a, f: a.set_adapters(["one"], [0.1, 0.2]), "2 adapter_weights for 1 adapter_names"),
        (lambda a, f: a.delete_adapters(["one", "two"]), "no LoRA named 'two'"),
        (lambda a, f: a.fuse_lora(adapter_names="two"), "no LoRA named 'two'"),
    ],
)
def test_mistakes_change_nothing(folder: Path, call: Callable[[Adapters, Path], None], match: str) -> None:
    transformer = small_transformer()
    adapters = Adapters(transformer)
    adapters.load_lora_weights(folder / "one.safetensors", "one")
    before = run(transformer)
    with pytest.raises(RequestError, match=match):
        call(adapters, folder)
    assert torch.equal(run(transformer), before)
    assert adapters.get_list_adapters() == {"transformer": ["one"]}


def test_nothing_changes_while_fused(folder: Path) -> None:
    adapters = Adapters(small_transformer())
    with pytest.raises(RequestError, match="no active LoRA to fuse"):
        adapters.fuse_lora()
    adapters.unfuse_lora()
    adapters.load_lora_weights(folder / "one.safetensors", "one")
    adapters.fuse_lora()
    for call in (
        lambda: adapters.load_lora_weights(folder / "two.safetensors"),
        lambda: adapters.set_adapters("one", 0.5),
        lambda: adapters.delete_adapters("one"),
        lambda: adapters.fuse_lora(),
    ):
        with pytest.raises(RequestError, match="LoRAs are fused: call unfuse_lora"):
            call()


def test_a_load_that_fails_leaves_what_was_active(folder: Path) -> None:
    transformer = small_transformer()
    adapters = Adapters(transformer)
    adapters.load_lora_weights(folder / "one.safetensors", "one")
    before = run(transformer)
    with pytest.raises(WeightsError, match="for another model"):
        adapters.load_lora_weights(folder / "wide.safetensors")
    with pytest.raises(ExtensionError, match="letters"):
        adapters.load_lora_weights(folder / "two.safetensors", "a.b")
    assert adapters.get_active_adapters() == ["one"]
    assert adapters.get_list_adapters() == {"transformer": ["one"]}
    assert torch.equal(run(transformer), before)
