"""The names of our linears, and of their row blocks, in the LoRA files of others. Data only.

Sources: parameter names of `CogVideoXTransformer3DModel`, as PEFT extends them; kohya's, which are the same with
underscores; SwissArmyTransformer's LoraMixin; DiffSynth-Studio's CogDiT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cogworks.nn.modulation import BLOCK_ROWS

Dialect = Literal["diffusers", "sat", "kohya", "diffsynth"]
DIALECTS: tuple[Dialect, ...] = ("diffusers", "sat", "kohya", "diffsynth")


@dataclass(frozen=True)
class Target:
    """One linear that a file can hold a factor pair for. In a template `{i}` is the number of a layer.

    Attributes:
        path: template of ours.
        rows: the row blocks that the pair acts on, in the order of its rows; empty for a linear without them.
        diffusers: template of theirs.
        sat: theirs, None where SAT puts no LoRA.
        sat_part: SAT numbers the factor pairs of a linear.
        diffsynth: theirs, None where that network has no such linear.
    """

    path: str
    rows: tuple[str, ...]
    diffusers: str
    sat: str | None = None
    sat_part: int = 0
    diffsynth: str | None = None


_BLOCK, _LAYER, _THEIRS = "blocks.{i}", "transformer.layers.{i}", "transformer_blocks.{i}"

TARGETS = (
    *(
        Target(
            f"{_BLOCK}.attention.qkv",
            (name,),
            f"{_THEIRS}.attn1.to_{name}",
            f"{_LAYER}.attention.query_key_value",
            part,
            f"blocks.{{i}}.attn1.to_{name}",
        )
        for part, name in enumerate("qkv")
    ),
    Target(f"{_BLOCK}.attention.qkv", ("q", "k", "v"), f"{_THEIRS}.attn1.to_qkv"),  # after fuse_qkv_projections
    Target(
        f"{_BLOCK}.attention.out",
        (),
        f"{_THEIRS}.attn1.to_out.0",
        f"{_LAYER}.attention.dense",
        diffsynth="blocks.{i}.attn1.to_out",
    ),
    Target(
        f"{_BLOCK}.mlp.up", (), f"{_THEIRS}.ff.net.0.proj", f"{_LAYER}.mlp.dense_h_to_4h", diffsynth="blocks.{i}.ff.0"
    ),
    Target(f"{_BLOCK}.mlp.down", (), f"{_THEIRS}.ff.net.2", f"{_LAYER}.mlp.dense_4h_to_h", diffsynth="blocks.{i}.ff.2"),
    *(
        Target(
            "modulations.{i}",
            tuple(row for row in BLOCK_ROWS if row.endswith(half)),
            f"{_THEIRS}.{norm}.linear",
            diffsynth=f"blocks.{{i}}.{norm}.linear",
        )
        for half, norm in (("attention", "norm1"), ("mlp", "norm2"))
    ),
    Target("modulation_out", ("shift", "scale"), "norm_out.linear", diffsynth="norm_out.linear"),
    Target("proj_out", (), "proj_out", diffsynth="proj_out"),
    Target("patch_embed.proj", (), "patch_embed.proj"),
    Target("patch_embed.text_proj", (), "patch_embed.text_proj", diffsynth="context_embedder"),
    Target("time_embed.up", (), "time_embedding.linear_1", diffsynth="time_embedder.timestep_embedder.0"),
    Target("time_embed.down", (), "time_embedding.linear_2", diffsynth="time_embedder.timestep_embedder.2"),
    Target("ofs_embed.up", (), "ofs_embedding.linear_1"),
    Target("ofs_embed.down", (), "ofs_embedding.linear_2"),
)

PATCHES = "patch_embed.proj"
"""The one linear that is a convolution in diffusers, for models of generation 1.0."""

PREFIXES: dict[Dialect, tuple[str, ...]] = {
    "diffusers": ("transformer.", "diffusion_model.", "base_model.model.", "base_model.model.transformer.", ""),
    "sat": ("model.diffusion_model.", ""),
    "kohya": ("lora_unet_", "lora_unet__", "lora_transformer_"),  # the second in CogVideoX-Fun's files
    "diffsynth": ("", "pipe.dit.", "diffusion_model."),
}
"""What stands before the names. The first is what is written."""

SAT_BASE = ("transformer.", "mixins.", "time_embed.", "ofs_embed.")
"""What the names of the other parameters in a SAT checkpoint begin with, after the prefix; they are not read."""
SAT_OTHERS = ("first_stage_model.", "conditioner.", "model_ema.")
"""What a SAT checkpoint may hold beside the transformer."""
