"""LoRA against diffusers with PEFT, live: small random networks, files in both directions, equal predictions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogworks.extensions.attach import attach
from cogworks.extensions.lora import LoRA, StoredLoRA, lora_pairs, lora_parameters, merge
from cogworks.models.transformer import Transformer
from cogworks.nn.low_rank import LowRank
from cogworks.pipelines.adapters import Adapters
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_write import write_lora
from helpers.small_models import TEXT_TOKENS
from helpers.transformer_pair import run_theirs, transformer_pair

TOLERANCE = 1e-5  # two networks of two blocks in float32, predictions up to 3
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [
    *ATTENTION, "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear", "norm_out.linear", "proj_out",
    "patch_embed.proj", "patch_embed.text_proj", "time_embedding.linear_1", "time_embedding.linear_2",
]  # fmt: skip


def inputs(ours: Transformer) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    config = ours.config
    frames = 4 if config.patch_size[0] == 2 else 3
    latents = torch.randn(2, config.in_channels, frames, 8, 8, generator=generator)
    return latents, torch.tensor([999, 417]), torch.randn(2, TEXT_TOKENS, config.text_width, generator=generator)


@torch.no_grad()
def run_ours(ours: Transformer) -> Tensor:
    latents, timesteps, text = inputs(ours)
    return ours(latents, timesteps, text, None if ours.ofs_embed is None else torch.full((2,), 2.0))


def add_adapter(theirs: Any, name: str, seed: int, **config: Any) -> None:
    """A LoRA in PEFT with both factors random."""
    from peft import LoraConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are several adapters
        theirs.add_adapter(LoraConfig(**config), adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if f".{name}." in key:
                fan_in = parameter[0].numel() if "lora_A" in key else 10
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)


def save(theirs: Any, name: str, folder: Path) -> None:
    """As `CogVideoXPipeline.save_lora_weights` does it for a trainer."""
    from diffusers import CogVideoXPipeline
    from peft.utils import get_peft_model_state_dict

    CogVideoXPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(theirs, adapter_name=name),
        transformer_lora_adapter_metadata=theirs.peft_config[name].to_dict(),
    )


def compare(ours: Transformer, theirs: Any) -> float:
    with torch.no_grad():
        return float((run_ours(ours) - run_theirs(theirs, *inputs(ours))).abs().max())


@pytest.mark.parametrize(
    ("variation", "config"),
    [
        ("5b", {"r": 4, "lora_alpha": 2, "target_modules": ATTENTION}),
        ("2b", {"r": 4, "lora_alpha": 2, "target_modules": EVERYTHING}),  # patches are a convolution
        ("1.5-i2v", {"r": 3, "lora_alpha": 1, "target_modules": [*EVERYTHING, "ofs_embedding.linear_1"]}),
        ("5b-i2v", {"r": 4, "lora_alpha": 2, "target_modules": ATTENTION, "use_rslora": True}),
        (
            "1.5",
            {
                "r": 4, "lora_alpha": 2, "target_modules": ATTENTION,
                "rank_pattern": {"to_q": 2, "^transformer_blocks.1.attn1.to_v": 6}, "alpha_pattern": {"to_k": 5},
            },
        ),
    ],
)  # fmt: skip
def test_a_lora_of_theirs_gives_the_same_prediction_here(
    tmp_path: Path, variation: str, config: dict[str, Any]
) -> None:
    ours, theirs = transformer_pair(variation)
    plain = run_ours(ours)
    add_adapter(theirs, "style", 3, **config)
    save(theirs, "style", tmp_path)
    lora = read_lora(tmp_path)
    with attach(ours, StoredLoRA(lora.pairs)):
        assert compare(ours, theirs) < TOLERANCE
        assert (run_ours(ours) - plain).abs().max() > 1000 * TOLERANCE
        merge(ours)
        assert compare(ours, theirs) < TOLERANCE
    with attach(ours, StoredLoRA(lora.pairs, scale=0.9)):  # negative control
        assert compare(ours, theirs) > 100 * TOLERANCE


def theirs_with(theirs: Any, path: Path, name: str) -> None:
    """As `CogVideoXPipeline.load_lora_weights` does it."""
    from diffusers import CogVideoXPipeline

    state, metadata = CogVideoXPipeline.lora_state_dict(str(path), return_lora_metadata=True)
    assert metadata is not None
    CogVideoXPipeline.load_lora_into_transformer(state, theirs, adapter_name=name, metadata=metadata)


@pytest.mark.parametrize("targets", ["attention", "everything"])
def test_a_lora_trained_here_gives_the_same_prediction_there(tmp_path: Path, targets: str) -> None:
    ours, theirs = transformer_pair("5b")
    ours.requires_grad_(False)
    patterns = {
        "attention": ("blocks.*.attention.qkv", "blocks.1.attention.out"),
        "everything": (
            "blocks.*.attention.qkv",
            "blocks.*.mlp.*",
            "modulations.*",
            "modulation_out",
            "*_proj",
            "*.proj",
        ),
    }[targets]
    with attach(ours, LoRA(rank=4, alpha=6, targets=patterns)):
        target = torch.randn_like(run_ours(ours))
        optimizer = torch.optim.Adam(lora_parameters(ours), lr=1e-2)
        for _ in range(3):
            latents, timesteps, text = inputs(ours)
            (ours(latents, timesteps, text) - target).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        path = tmp_path / "trained.safetensors"
        write_lora(path, lora_pairs(ours, "default"), "diffusers", config=ours.config)
        theirs_with(theirs, path, "trained")
        assert compare(ours, theirs) < TOLERANCE
        with torch.no_grad():
            lora_parameters(ours)[1].mul_(1.5)
        assert compare(ours, theirs) > 10 * TOLERANCE  # negative control: one factor of one row block
    back = read_lora(path)
    with attach(ours, StoredLoRA(back.pairs)):
        assert compare(ours, theirs) < TOLERANCE


def test_every_dialect_reaches_them_through_a_conversion(tmp_path: Path) -> None:
    """SAT, kohya and DiffSynth files, read here and written for diffusers."""
    ours, theirs = transformer_pair("5b")
    pairs = [
        LowRank(f"blocks.{layer}.attention.qkv", (name,), torch.randn(4, 64) / 8, torch.randn(64, 4) / 3, alpha=3.0)
        for layer in range(2)
        for name in "qkv"
    ]
    for dialect in ("sat", "kohya", "diffsynth"):
        there = tmp_path / f"{dialect}.{'pt' if dialect == 'sat' else 'safetensors'}"
        write_lora(there, pairs, dialect)
        write_lora(tmp_path / f"from-{dialect}.safetensors", read_lora(there).pairs, "diffusers")
        theirs_with(theirs, tmp_path / f"from-{dialect}.safetensors", dialect)
        theirs.set_adapters(dialect)
        with attach(ours, StoredLoRA(tuple(pairs))):
            assert compare(ours, theirs) < TOLERANCE


def test_adapters_behave_like_theirs(tmp_path: Path) -> None:
    """Loading twice, weights, fusing, unloading: after every step the same adapters are active and act alike."""
    from diffusers import CogVideoXPipeline

    ours, theirs = transformer_pair("5b")
    for number, name in enumerate(("one", "two")):
        _, source = transformer_pair("5b")
        add_adapter(source, name, number, r=4, lora_alpha=2, target_modules=ATTENTION)
        save(source, name, tmp_path / name)
    pipe = CogVideoXPipeline(None, None, None, theirs, None)
    adapters = Adapters(ours)

    def same() -> None:
        assert sorted(adapters.get_active_adapters()) == sorted(pipe.get_active_adapters())
        assert adapters.get_list_adapters() == pipe.get_list_adapters()
        assert compare(ours, theirs) < TOLERANCE

    plain = run_ours(ours)
    for library in (adapters, pipe):
        library.load_lora_weights(tmp_path / "one", adapter_name="one")
    same()
    one = run_ours(ours)
    for library in (adapters, pipe):
        library.load_lora_weights(tmp_path / "two")
    same()
    for library in (adapters, pipe):
        library.set_adapters(["one", "default_1"], adapter_weights=[0.4, -0.7])
    same()
    both = run_ours(ours)
    for library in (adapters, pipe):
        library.fuse_lora(lora_scale=0.5)
    assert compare(ours, theirs) < TOLERANCE
    fused = run_ours(ours)
    for library in (adapters, pipe):
        library.unload_lora_weights()
    assert compare(ours, theirs) < TOLERANCE
    assert adapters.get_list_adapters() == {}
    assert torch.equal(run_ours(ours), fused)  # what is fused stays
    outputs = [plain, one, both, fused]
    assert all((a - b).abs().max() > 100 * TOLERANCE for i, a in enumerate(outputs) for b in outputs[:i])


def test_a_wrong_name_would_be_seen(tmp_path: Path) -> None:
    """Negative control of the table: with q and k exchanged the predictions differ."""
    ours, theirs = transformer_pair("5b")
    add_adapter(theirs, "style", 3, r=4, lora_alpha=2, target_modules=ATTENTION)
    save(theirs, "style", tmp_path)
    other = {("q",): ("k",), ("k",): ("q",)}
    pairs = tuple(
        LowRank(p.path, other.get(p.rows, p.rows), p.lora_a, p.lora_b, p.alpha) for p in read_lora(tmp_path).pairs
    )
    with attach(ours, StoredLoRA(pairs)):
        assert compare(ours, theirs) > 100 * TOLERANCE


def test_their_linears_have_the_names_of_the_table() -> None:
    """Every linear of diffusers' transformer is one that a LoRA of theirs could name."""
    from cogworks.weights.lora import _locate

    _, theirs = transformer_pair("1.5-i2v")
    names = [name for name, module in theirs.named_modules() if isinstance(module, nn.Linear)]
    assert len(names) > 20
    assert [name for name in names if _locate(name, "diffusers") is None] == []
