"""LoRA files: every dialect to every other bit for bit, and the names of each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogworks.config.variants import COGVIDEOX_15_5B, TINY
from cogworks.errors import WeightsError
from cogworks.models.transformer import Transformer
from cogworks.nn.linear import StackedLinear
from cogworks.nn.low_rank import LowRank
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_write import write_lora
from cogworks.weights.maps.lora import DIALECTS, TARGETS, Dialect
from helpers.golden_weights import CONFIGS, load_golden
from helpers.lora_factors import assert_same_pairs, attention_pairs, random_pair, small_transformer

ALL = pytest.mark.parametrize("dialect", DIALECTS)


def file(folder: Path, dialect: Dialect, name: str = "lora") -> Path:
    return folder / f"{name}-{dialect}{'.pt' if dialect == 'sat' else '.safetensors'}"


def keys_of(path: Path) -> set[str]:
    if path.suffix == ".pt":
        return set(torch.load(path, weights_only=True)["module"])
    return set(load_file(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [1.0, 3.0, 64.0, 0.1])
def test_every_dialect_to_every_other_and_back_is_bitwise(tmp_path: Path, alpha: float, dtype: torch.dtype) -> None:
    """Also alphas that no power of two takes out again: 3, 0.1."""
    pairs = attention_pairs(small_transformer(), alpha=alpha, dtype=dtype)
    for first, second in itertools.product(DIALECTS, DIALECTS):
        there, further, back = (file(tmp_path, d, n) for d, n in ((first, "a"), (second, "b"), (first, "c")))
        write_lora(there, pairs, first)
        write_lora(further, read_lora(there).pairs, second)
        assert read_lora(further).dialect == second
        assert_same_pairs(read_lora(further).pairs, pairs)
        write_lora(back, read_lora(further).pairs, first)
        assert keys_of(back) == keys_of(there)
        if first != "sat":  # a pickle has no canonical bytes
            assert back.read_bytes() == there.read_bytes()


def test_the_round_trip_sees_a_flipped_bit(tmp_path: Path) -> None:
    pairs = attention_pairs(small_transformer())
    path = file(tmp_path, "kohya")
    write_lora(path, pairs, "kohya")
    pairs[3].lora_b[0, 0] = torch.nextafter(pairs[3].lora_b[0, 0], torch.tensor(9.0))
    with pytest.raises(AssertionError):
        assert_same_pairs(read_lora(path).pairs, pairs)


NAMES = {
    "diffusers": "transformer.transformer_blocks.1.attn1.to_out.0.lora_A.weight",
    "sat": "model.diffusion_model.transformer.layers.1.attention.dense.matrix_A.0",
    "kohya": "lora_unet_transformer_blocks_1_attn1_to_out_0.lora_down.weight",
    "diffsynth": "blocks.1.attn1.to_out.lora_A.default.weight",
}


@ALL
def test_the_names_are_those_of_the_dialect(tmp_path: Path, dialect: Dialect) -> None:
    path = file(tmp_path, dialect)
    write_lora(path, attention_pairs(small_transformer()), dialect)
    keys = keys_of(path)
    assert NAMES[dialect] in keys
    assert len(keys) == 2 * 4 * (3 if dialect == "kohya" else 2)


@ALL
def test_programs_that_read_it_get_the_same_product(tmp_path: Path, dialect: Dialect) -> None:
    """What a reader of the dialect computes that knows nothing of our notes: the strength is right everywhere."""
    pair = random_pair(small_transformer(), "blocks.1.attention.out", rank=4, alpha=3.0)
    path = file(tmp_path, dialect)
    write_lora(path, [pair], dialect)
    tensors = torch.load(path, weights_only=True)["module"] if dialect == "sat" else load_file(path)
    a, b = (next(t for key, t in tensors.items() if side in key) for side in _sides(dialect))
    alpha = {"diffusers": 3.0, "sat": 1.0, "kohya": float(tensors.get(NAMES["kohya"].split(".")[0] + ".alpha", 0))}
    product = alpha.get(dialect, 4.0) / 4 * b.double() @ a.double()
    expected = 3 / 4 * pair.lora_b.double() @ pair.lora_a.double()
    torch.testing.assert_close(product, expected, atol=0, rtol=1e-6)
    if dialect == "diffusers":
        with safe_open(path, framework="pt") as opened:
            config = json.loads(opened.metadata()["lora_adapter_metadata"])
        assert config["transformer.lora_alpha"] == 3
        assert config["transformer.r"] == 4


def _sides(dialect: Dialect) -> tuple[str, str]:
    return {"sat": ("matrix_A", "matrix_B"), "kohya": ("lora_down", "lora_up")}.get(dialect, ("lora_A", "lora_B"))


@pytest.mark.parametrize(
    ("rename", "dialect"),
    [
        (lambda key: key.removeprefix("transformer."), "diffusers"),
        (lambda key: key.replace("transformer.", "diffusion_model.", 1), "diffusers"),
        (lambda key: key.replace("transformer.", "base_model.model.", 1), "diffusers"),
        (lambda key: key.replace(".weight", ".default.weight"), "diffusers"),
        (lambda key: key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"), "diffusers"),
        (lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"), "diffusers"),
        (lambda key: _kohya(key.removeprefix("transformer."), "lora_transformer_"), "kohya"),
        (lambda key: _kohya(key.removeprefix("transformer."), "lora_unet__"), "kohya"),
        (lambda key: "pipe.dit." + _diffsynth(key), "diffsynth"),
        (lambda key: _diffsynth(key).replace(".default", ""), "diffsynth"),
    ],
)
def test_spellings_of_other_programs(tmp_path: Path, rename: Callable[[str], str], dialect: Dialect) -> None:
    pairs = attention_pairs(small_transformer(), alpha=3.0)
    write_lora(tmp_path / "a.safetensors", pairs, "diffusers")
    tensors = load_file(tmp_path / "a.safetensors")
    save_file({rename(key): tensor for key, tensor in tensors.items()}, tmp_path / "b.safetensors")
    found = read_lora(tmp_path / "b.safetensors")
    assert found.dialect == dialect
    assert_same_pairs(found.pairs, attention_pairs(small_transformer(), alpha=3.0))  # without metadata: the rank, 3


def _kohya(key: str, prefix: str) -> str:
    name, side = key.split(".lora_")
    return f"{prefix}{name.replace('.', '_')}.lora_{'down' if side[0] == 'A' else 'up'}.weight"


def _diffsynth(key: str) -> str:
    name = key.removeprefix("transformer.").replace("transformer_blocks", "blocks").replace("to_out.0", "to_out")
    return name.replace(".weight", ".default.weight")


def test_sat_golden_in_each_form(tmp_path: Path) -> None:
    """Bare names, names with the prefix of a checkpoint, and a whole checkpoint with its base one level down."""
    golden = {k.removeprefix("lora."): t for k, t in load_golden("lora_t2v_rope_r4").items() if k.startswith("lora.")}
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in golden.items()}
    base = {
        "model.diffusion_model.transformer.layers.0.attention.dense.original.weight": torch.zeros(64, 64),
        "model.diffusion_model.mixins.final_layer.linear.weight": torch.zeros(4),
        "model.diffusion_model.time_embed.0.bias": torch.zeros(4),
        "first_stage_model.encoder.conv_in.conv.bias": torch.zeros(4),
    }
    save_file(golden, tmp_path / "bare.safetensors")
    torch.save({"module": prefixed, "iteration": 5}, tmp_path / "prefixed.pt")
    (tmp_path / "run" / "1000").mkdir(parents=True)
    (tmp_path / "run" / "latest").write_text("1000")
    torch.save({"module": {**prefixed, **base}}, tmp_path / "run" / "1000" / "mp_rank_00_model_states.pt")
    expected = [
        LowRank("blocks.2.attention.qkv", ("k",), *(golden[_sat(side, "query_key_value", 1)] for side in "AB"), 1.0),
        LowRank("blocks.2.attention.out", (), *(golden[_sat(side, "dense", 0)] for side in "AB"), 1.0),
    ]
    for name in ("bare.safetensors", "prefixed.pt", "run", "run/1000/mp_rank_00_model_states.pt"):
        found = read_lora(tmp_path / name)
        assert found.dialect == "sat"
        assert len(found.pairs) == 12
        assert_same_pairs([p for p in found.pairs if p.target in {e.target for e in expected}], expected)


def _sat(side: str, name: str, part: int) -> str:
    return f"transformer.layers.2.attention.{name}.matrix_{side}.{part}"


def test_any_depth(tmp_path: Path) -> None:
    """42 layers, which the released export script refuses, and one."""
    one = random_pair(small_transformer(), "blocks.1.attention.out")
    for layers in (1, 30, 42):
        pairs = [LowRank(f"blocks.{i}.attention.out", (), one.lora_a, one.lora_b, 1.0) for i in range(layers)]
        write_lora(tmp_path / "sat.pt", pairs, "sat")
        assert_same_pairs(read_lora(tmp_path / "sat.pt").pairs, pairs)


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "diffsynth"])
def test_every_linear_that_the_dialect_names(tmp_path: Path, dialect: Dialect) -> None:
    config = CONFIGS["i2v15_rope_slice_ofs"]
    network = Transformer(config)
    field = "diffusers" if dialect == "kohya" else dialect
    pairs = [
        random_pair(network, target.path.format(i=1), target.rows)
        for target in TARGETS
        if getattr(target, field) and target.rows != ("q", "k", "v")
    ]
    path = file(tmp_path, dialect)
    write_lora(path, pairs, dialect, config=config)
    assert_same_pairs(read_lora(path).pairs, pairs)


def test_patches_of_a_convolution(tmp_path: Path) -> None:
    config, path = TINY.transformer, tmp_path / "a.safetensors"
    columns = config.in_channels * 4
    pair = LowRank("patch_embed.proj", (), torch.randn(2, columns), torch.randn(192, 2), 2.0)
    with pytest.raises(WeightsError, match="name the model that it is for"):
        write_lora(path, [pair], "diffusers")
    write_lora(path, [pair], "diffusers", config=COGVIDEOX_15_5B.transformer)
    assert {t.ndim for t in load_file(path).values()} == {2}
    write_lora(path, [pair], "diffusers", config=config)
    shapes = {key.split(".")[-2]: tuple(t.shape) for key, t in load_file(path).items()}
    assert shapes == {"lora_A": (2, config.in_channels, 2, 2), "lora_B": (192, 2, 1, 1)}
    assert_same_pairs(read_lora(path).pairs, [pair])


def test_row_blocks_become_one_pair_where_the_dialect_knows_the_linear_alone(tmp_path: Path) -> None:
    network, path = small_transformer(), tmp_path / "a.safetensors"
    rows = ("video_gate_attention", "text_shift_attention", "video_scale_mlp")
    pairs = [random_pair(network, "modulations.0", (row,), rank=2 + n) for n, row in enumerate(rows)]
    write_lora(path, pairs, "diffusers")
    found = {pair.rows[0].rsplit("_", 1)[1]: pair for pair in read_lora(path).pairs}
    assert {half: pair.rank for half, pair in found.items()} == {"attention": 5, "mlp": 4}
    product = _weight(found["attention"]).chunk(6)  # video shift, scale, gate, then the same of text
    torch.testing.assert_close(product[2], _weight(pairs[0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(product[3], _weight(pairs[1]), atol=1e-6, rtol=0)
    assert not any(product[index].any() for index in (0, 1, 4, 5))
    torch.testing.assert_close(_weight(found["mlp"]).chunk(6)[1], _weight(pairs[2]), atol=1e-6, rtol=0)


def test_a_pair_of_several_row_blocks_is_cut_where_the_dialect_knows_blocks_alone(tmp_path: Path) -> None:
    pair = random_pair(small_transformer(), "blocks.0.attention.qkv", ("q", "k", "v"))
    write_lora(tmp_path / "a.safetensors", [pair], "diffusers")
    assert any("to_qkv" in key for key in load_file(tmp_path / "a.safetensors"))
    assert_same_pairs(read_lora(tmp_path / "a.safetensors").pairs, [pair])
    write_lora(tmp_path / "a.pt", [pair], "sat")
    found = {part.rows: part for part in read_lora(tmp_path / "a.pt").pairs}
    expected = dict(zip("qkv", pair.lora_b.chunk(3), strict=True))
    assert set(found) == {("q",), ("k",), ("v",)}
    assert all(torch.equal(part.lora_b, expected[rows[0]]) for rows, part in found.items())
    assert all(torch.equal(part.lora_a, pair.lora_a) for part in found.values())


def _weight(pair: LowRank) -> Tensor:
    return pair.strength * pair.lora_b @ pair.lora_a


def test_what_cannot_be_written(tmp_path: Path) -> None:
    network = small_transformer()
    pairs = [random_pair(network, "modulations.0", ("video_shift_mlp",)), *attention_pairs(network)]
    with pytest.raises(WeightsError, match=r"sat has no name for 1 of the targets: modulations\.0:video_shift_mlp"):
        write_lora(tmp_path / "a.pt", pairs, "sat")
    with pytest.raises(WeightsError, match=r"ends in \.pt"):
        write_lora(tmp_path / "a.safetensors", pairs, "sat")
    with pytest.raises(WeightsError, match="no factors"):
        write_lora(tmp_path / "a.safetensors", [], "kohya")
    assert not any(tmp_path.iterdir())


def test_the_table_names_every_linear_and_no_name_stands_for_two() -> None:
    with torch.device("meta"):
        network = Transformer(CONFIGS["i2v15_rope_slice_ofs"])
    linears = {path: module for path, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert {re.sub(r"\b\d+\b", "{i}", path) for path in linears} == {target.path for target in TARGETS}
    single = [target for target in TARGETS if target.rows != ("q", "k", "v")]
    for path, linear in linears.items():
        template = re.sub(r"\b\d+\b", "{i}", path)
        rows = [row for target in single if target.path == template for row in target.rows]
        assert sorted(rows) == sorted(linear.names if isinstance(linear, StackedLinear) else ()), path
    for dialect in DIALECTS:
        names = [
            (getattr(t, "diffusers" if dialect == "kohya" else dialect), t.sat_part if dialect == "sat" else 0)
            for t in TARGETS
        ]
        named = [name for name in names if name[0]]
        assert len(set(named)) == len(named) > 0
