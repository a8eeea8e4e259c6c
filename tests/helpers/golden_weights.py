"""The networks of tests/golden/cogvideox_sat as ours.

The map of names stands here a second time, beside the one in `weights/maps`, so that a test of networks, losses or
samplers does not depend on the code that reads checkpoints.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from cogworks.config.architecture import TransformerConfig
from cogworks.models.transformer import Transformer

GOLDEN = Path(__file__).parent.parent / "golden" / "cogvideox_sat"

_T2V_SINCOS = TransformerConfig(
    num_layers=3,
    num_heads=2,
    head_width=32,
    in_channels=4,
    out_channels=4,
    patch_size=(1, 2, 2),
    text_width=24,
    text_tokens=5,
    time_width=32,
    rope="none",
    position_table="sincos",
    ofs_width=None,
    sample_size=(8, 12),
    sample_frames=9,
    norm_out_eps=1e-6,  # SAT's
)
_T2V_ROPE = replace(_T2V_SINCOS, rope="crop", position_table="none")
_T2V_15 = replace(_T2V_ROPE, num_layers=2, patch_size=(2, 2, 2), rope="slice", sample_frames=13)

CONFIGS = {
    "t2v_sincos": _T2V_SINCOS,
    "t2v_rope": _T2V_ROPE,
    "i2v_rope_learned": replace(_T2V_ROPE, num_layers=2, in_channels=8, position_table="learned"),
    "t2v15_rope_slice": _T2V_15,
    "i2v15_rope_slice_ofs": replace(_T2V_15, in_channels=8, ofs_width=32),
}

_DROPPED = re.compile(r"transformer\.position_embeddings\..*|mixins\.pos_embed\.freqs_(cos|sin)")
_RENAMED = [
    (r"(time|ofs)_embed\.0\.", r"\1_embed.up."),
    (r"(time|ofs)_embed\.2\.", r"\1_embed.down."),
    (r"mixins\.patch_embed\.", "patch_embed."),
    (r"mixins\.pos_embed\.pos_embedding", "position_table.table"),
    (r"mixins\.adaln_layer\.query_layernorm_list\.(\d+)\.", r"blocks.\1.attention.norm_q."),
    (r"mixins\.adaln_layer\.key_layernorm_list\.(\d+)\.", r"blocks.\1.attention.norm_k."),
    (r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1\.", r"modulations.\1."),
    (r"mixins\.final_layer\.norm_final\.", "norm_out."),
    (r"mixins\.final_layer\.adaLN_modulation\.1\.", "modulation_out."),
    (r"mixins\.final_layer\.linear\.", "proj_out."),
    (r"transformer\.final_layernorm\.", "norm_final."),
    (r"transformer\.layers\.(\d+)\.input_layernorm\.", r"blocks.\1.norm1."),
    (r"transformer\.layers\.(\d+)\.post_attention_layernorm\.", r"blocks.\1.norm2."),
    (r"transformer\.layers\.(\d+)\.attention\.query_key_value\.", r"blocks.\1.attention.qkv."),
    (r"transformer\.layers\.(\d+)\.attention\.dense\.", r"blocks.\1.attention.out."),
    (r"transformer\.layers\.(\d+)\.mlp\.dense_h_to_4h\.", r"blocks.\1.mlp.up."),
    (r"transformer\.layers\.(\d+)\.mlp\.dense_4h_to_h\.", r"blocks.\1.mlp.down."),
]


def our_name(sat_name: str) -> str:
    """Our name of a SAT parameter (no prefix). Raises KeyError if nothing of ours corresponds."""
    for pattern, name in _RENAMED:
        if re.match(pattern, sat_name):
            return re.sub(pattern, name, sat_name)
    raise KeyError(sat_name)


def load_golden(name: str) -> dict[str, Tensor]:
    """The arrays of `name`.safetensors."""
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def load_golden_transformer(name: str) -> Transformer:
    """The golden network `name`, a key of `CONFIGS`. Shared by the tests of a process: do not change its weights."""
    network = Transformer(CONFIGS[name])
    state = {
        our_name(key): tensor.flatten(1) if key == "mixins.patch_embed.proj.weight" else tensor
        for key, tensor in load_golden(f"dit_{name}.weights").items()
        if not _DROPPED.fullmatch(key)
    }
    if CONFIGS[name].position_table == "sincos":
        del state["position_table.table"]  # ours is computed
    network.load_state_dict(state)
    return network
