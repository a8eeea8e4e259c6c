"""The names of diffusers (transformer, VAE) and of transformers (T5) for our parameters. Data only.

Every table reads file -> network; `mapping.reverse` gives the other direction.
Source: parameter names of `CogVideoXTransformer3DModel`, `AutoencoderKLCogVideoX` and `T5EncoderModel`.
"""

from __future__ import annotations

from cogworks.config.architecture import TransformerConfig
from cogworks.weights.mapping import Rule, drop, flattened_columns, interleaved_rows, same


def transformer_rules(config: TransformerConfig) -> tuple[Rule, ...]:
    """The table of one transformer."""
    block, ours = "transformer_blocks.{i}", "blocks.{i}"
    patch = (
        same("patch_embed.proj.weight", "patch_embed.proj.weight")
        if config.rope == "slice"
        else Rule(
            ("patch_embed.proj.weight",),
            ("patch_embed.proj.weight",),
            flattened_columns((config.in_channels, *config.patch_size[1:])),
        )
    )
    return (
        patch,
        same("patch_embed.proj.bias", "patch_embed.proj.bias"),
        same("patch_embed.text_proj.{p}", "patch_embed.text_proj.{p}"),
        # A buffer there. The sin-cos table is computed here, and only some files hold it.
        same("patch_embed.pos_embedding", "position_table.table")
        if config.position_table == "learned"
        else drop("patch_embed.pos_embedding"),
        same("time_embedding.linear_1.{p}", "time_embed.up.{p}"),
        same("time_embedding.linear_2.{p}", "time_embed.down.{p}"),
        same("ofs_embedding.linear_1.{p}", "ofs_embed.up.{p}"),
        same("ofs_embedding.linear_2.{p}", "ofs_embed.down.{p}"),
        # Each of the two holds three rows for video, then three for text; ours holds all six for video first.
        Rule(
            (f"{block}.norm1.linear.{{p}}", f"{block}.norm2.linear.{{p}}"),
            ("modulations.{i}.{p}",),
            interleaved_rows(2, parts=2),
        ),
        same(f"{block}.norm1.norm.{{p}}", f"{ours}.norm1.{{p}}"),
        same(f"{block}.norm2.norm.{{p}}", f"{ours}.norm2.{{p}}"),
        Rule(
            tuple(f"{block}.attn1.to_{name}.{{p}}" for name in "qkv"),
            (f"{ours}.attention.qkv.{{p}}",),
            interleaved_rows(3),
        ),
        same(f"{block}.attn1.to_qkv.{{p}}", f"{ours}.attention.qkv.{{p}}", alias=True),  # after fuse_qkv_projections
        same(f"{block}.attn1.norm_q.{{p}}", f"{ours}.attention.norm_q.{{p}}"),
        same(f"{block}.attn1.norm_k.{{p}}", f"{ours}.attention.norm_k.{{p}}"),
        same(f"{block}.attn1.to_out.0.{{p}}", f"{ours}.attention.out.{{p}}"),
        same(f"{block}.ff.net.0.proj.{{p}}", f"{ours}.mlp.up.{{p}}"),
        same(f"{block}.ff.net.2.{{p}}", f"{ours}.mlp.down.{{p}}"),
        same("norm_final.{p}", "norm_final.{p}"),
        same("norm_out.norm.{p}", "norm_out.{p}"),
        same("norm_out.linear.{p}", "modulation_out.{p}"),
        same("proj_out.{p}", "proj_out.{p}"),
    )


def _vae_rules() -> tuple[Rule, ...]:
    rules = [
        same("{side}.conv_in.conv.{p}", "{side}.conv_in.{p}"),
        same("{side}.conv_out.conv.{p}", "{side}.conv_out.{p}"),
        same("encoder.norm_out.{p}", "encoder.norm_out.{p}"),
        same("encoder.down_blocks.{l}.downsamplers.0.conv.{p}", "encoder.levels.{l}.downsample.conv.{p}"),
        same("decoder.up_blocks.{l}.upsamplers.0.conv.{p}", "decoder.levels.{l}.upsample.conv.{p}"),
        *spatial_norm_rules("decoder.norm_out", "decoder.norm_out"),
    ]
    for side, blocks in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        rules += residual_block_rules(f"{side}.{blocks}.{{l}}.resnets.{{j}}", f"{side}.levels.{{l}}.blocks.{{j}}")
        rules += residual_block_rules(f"{side}.mid_block.resnets.{{j}}", f"{side}.middle.{{j}}")
    return tuple(rules)


def residual_block_rules(theirs: str, ours: str, shortcut: str = "conv_shortcut") -> list[Rule]:
    """The table of one residual block of the VAE; the norms of the encoder are plain, those of the decoder spatial."""
    return [
        same(f"{theirs}.{shortcut}.{{p}}", f"{ours}.shortcut.{{p}}"),
        *(same(f"{theirs}.{conv}.conv.{{p}}", f"{ours}.{conv}.{{p}}") for conv in ("conv1", "conv2")),
        *(same(f"{theirs}.{norm}.{{p}}", f"{ours}.{norm}.{{p}}") for norm in ("norm1", "norm2")),
        *spatial_norm_rules(f"{theirs}.norm1", f"{ours}.norm1"),
        *spatial_norm_rules(f"{theirs}.norm2", f"{ours}.norm2"),
    ]


def spatial_norm_rules(theirs: str, ours: str) -> list[Rule]:
    """The table of one spatial norm of the decoder."""
    return [
        same(f"{theirs}.norm_layer.{{p}}", f"{ours}.norm.{{p}}"),
        same(f"{theirs}.conv_y.conv.{{p}}", f"{ours}.scale.{{p}}"),
        same(f"{theirs}.conv_b.conv.{{p}}", f"{ours}.shift.{{p}}"),
    ]


VAE_RULES = _vae_rules()

_LAYER = "encoder.block.{i}.layer"
TEXT_ENCODER_RULES = (
    same("shared.weight", "embed.weight"),
    same("encoder.embed_tokens.weight", "embed.weight", alias=True),  # tied to shared.weight; some files hold both
    same("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias.weight"),
    *(
        same(f"{_LAYER}.0.SelfAttention.{theirs}.weight", f"blocks.{{i}}.attention.{ours}.weight")
        for theirs, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))
    ),
    same(f"{_LAYER}.0.layer_norm.weight", "blocks.{i}.norm1.weight"),
    *(
        same(f"{_LAYER}.1.DenseReluDense.{theirs}.weight", f"blocks.{{i}}.mlp.{ours}.weight")
        for theirs, ours in (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))
    ),
    same(f"{_LAYER}.1.layer_norm.weight", "blocks.{i}.norm2.weight"),
    same("encoder.final_layer_norm.weight", "norm_out.weight"),
    drop("decoder.{any}", "lm_head.{any}"),  # full T5 checkpoints
)
