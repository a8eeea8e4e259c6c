"""The names of SAT checkpoints for our parameters. Data only.

Every table reads file -> network, after the prefix of the file (`model.diffusion_model.`) is gone;
`mapping.reverse` gives the other direction. SAT stacks q, k, v and the twelve modulations as we do.
Source: SwissArmyTransformer's CogVideoX checkpoints (docs/parity.md#weights).
"""

from __future__ import annotations

from cogworks.config.architecture import TransformerConfig
from cogworks.weights.mapping import Rule, drop, flattened_columns, same
from cogworks.weights.maps.diffusers import residual_block_rules, spatial_norm_rules

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
POSITION_TABLE = "mixins.pos_embed.pos_embedding"


def transformer_rules(config: TransformerConfig) -> tuple[Rule, ...]:
    """The table of one transformer. The generation that has the learned table or the sin-cos one convolves patches."""
    layer, ours = "transformer.layers.{i}", "blocks.{i}"
    weight = "patch_embed.proj.weight"
    patch = (
        same(f"mixins.{weight}", weight)
        if config.rope == "slice"
        else Rule((f"mixins.{weight}",), (weight,), flattened_columns((config.in_channels, *config.patch_size[1:])))
    )
    return (
        patch,
        same("mixins.patch_embed.proj.bias", "patch_embed.proj.bias"),
        same("mixins.patch_embed.text_proj.{p}", "patch_embed.text_proj.{p}"),
        same(POSITION_TABLE, "position_table.table") if config.position_table == "learned" else drop(POSITION_TABLE),
        same("time_embed.0.{p}", "time_embed.up.{p}"),
        same("time_embed.2.{p}", "time_embed.down.{p}"),
        same("ofs_embed.0.{p}", "ofs_embed.up.{p}"),
        same("ofs_embed.2.{p}", "ofs_embed.down.{p}"),
        same("mixins.adaln_layer.adaLN_modulations.{i}.1.{p}", "modulations.{i}.{p}"),
        same(f"{layer}.input_layernorm.{{p}}", f"{ours}.norm1.{{p}}"),
        same(f"{layer}.post_attention_layernorm.{{p}}", f"{ours}.norm2.{{p}}"),
        same(f"{layer}.attention.query_key_value.{{p}}", f"{ours}.attention.qkv.{{p}}"),
        same("mixins.adaln_layer.query_layernorm_list.{i}.{p}", f"{ours}.attention.norm_q.{{p}}"),
        same("mixins.adaln_layer.key_layernorm_list.{i}.{p}", f"{ours}.attention.norm_k.{{p}}"),
        same(f"{layer}.attention.dense.{{p}}", f"{ours}.attention.out.{{p}}"),
        same(f"{layer}.mlp.dense_h_to_4h.{{p}}", f"{ours}.mlp.up.{{p}}"),
        same(f"{layer}.mlp.dense_4h_to_h.{{p}}", f"{ours}.mlp.down.{{p}}"),
        same("transformer.final_layernorm.{p}", "norm_final.{p}"),
        same("mixins.final_layer.norm_final.{p}", "norm_out.{p}"),
        same("mixins.final_layer.adaLN_modulation.1.{p}", "modulation_out.{p}"),
        same("mixins.final_layer.linear.{p}", "proj_out.{p}"),
        # Tables that are computed here, and the embeddings of SAT's base model, which CogVideoX never calls.
        drop("mixins.pos_embed.freqs_sin", "mixins.pos_embed.freqs_cos"),
        drop("transformer.word_embeddings.{any}", "transformer.position_embeddings.{any}"),
    )


def vae_rules(num_levels: int) -> tuple[Rule, ...]:
    """The table of a VAE. Decoder levels are numbered against the order in which they run."""
    rules = [
        same("{side}.conv_in.conv.{p}", "{side}.conv_in.{p}"),
        same("{side}.conv_out.conv.{p}", "{side}.conv_out.{p}"),
        same("encoder.norm_out.{p}", "encoder.norm_out.{p}"),
        same("encoder.down.{l}.downsample.conv.{p}", "encoder.levels.{l}.downsample.conv.{p}"),
        *spatial_norm_rules("decoder.norm_out", "decoder.norm_out"),
        *residual_block_rules("encoder.down.{l}.block.{j}", "encoder.levels.{l}.blocks.{j}", "nin_shortcut"),
    ]
    for level in range(num_levels):
        theirs, ours = f"decoder.up.{num_levels - 1 - level}", f"decoder.levels.{level}"
        rules += residual_block_rules(f"{theirs}.block.{{j}}", f"{ours}.blocks.{{j}}", "nin_shortcut")
        rules.append(same(f"{theirs}.upsample.conv.{{p}}", f"{ours}.upsample.conv.{{p}}"))
    for side in ("encoder", "decoder"):
        for index in (0, 1):
            rules += residual_block_rules(f"{side}.mid.block_{index + 1}", f"{side}.middle.{index}", "nin_shortcut")
    rules.append(drop("loss.{any}"))
    return tuple(rules)
