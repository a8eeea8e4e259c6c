"""Configuration files of transformers for the text encoder and its tokenizer, and the dataclass of ours.

Source: `text_encoder/config.json` and the `tokenizer` folder of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cogworks.config.architecture import TextEncoderConfig
from cogworks.errors import WeightsError
from cogworks.weights.config_schema import build

TEXT_ENCODER_CLASS = "T5EncoderModel"
TOKENIZER_CLASS = "T5Tokenizer"
_NUM_SENTINELS = 100


def read_text_encoder(config: Mapping[str, Any], origin: str) -> TextEncoderConfig:
    """`text_encoder/config.json` to ours; its keys for training and decoding are of no account here.

    Raises:
        WeightsError: it is not a T5 v1.1 model.
    """
    kind, mlp = config.get("model_type"), config.get("feed_forward_proj")
    if kind != "t5" or mlp != "gated-gelu":
        raise WeightsError(f"{origin} is a {kind} model with feed-forward {mlp}, expected t5 with gated-gelu (T5 v1.1)")
    keys = ("vocab_size", "d_model", "d_kv", "num_heads", "num_layers", "d_ff")
    missing = [key for key in keys if key not in config]
    if missing:
        raise WeightsError(f"{origin} does not say {', '.join(missing)}")
    return build(
        TextEncoderConfig,
        origin,
        vocab_size=config["vocab_size"],
        width=config["d_model"],
        head_width=config["d_kv"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        mlp_width=config["d_ff"],
        relative_buckets=config.get("relative_attention_num_buckets", 32),
        relative_max_distance=config.get("relative_attention_max_distance", 128),
        norm_eps=config.get("layer_norm_epsilon", 1e-6),
    )


def write_text_encoder(config: TextEncoderConfig) -> dict[str, Any]:
    """Ours to `text_encoder/config.json`."""
    return {
        "architectures": [TEXT_ENCODER_CLASS],
        "d_ff": config.mlp_width,
        "d_kv": config.head_width,
        "d_model": config.width,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "is_gated_act": True,
        "layer_norm_epsilon": config.norm_eps,
        "model_type": "t5",
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.relative_max_distance,
        "relative_attention_num_buckets": config.relative_buckets,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": config.vocab_size,
    }


def tokenizer_files(num_pieces: int, max_tokens: int) -> dict[str, dict[str, Any]]:
    """The files that transformers wants beside `spiece.model`, by name.

    Args:
        num_pieces: size of the sentencepiece model. T5 numbers its 100 sentinels downwards above it.
        max_tokens: length of an encoded prompt.
    """
    sentinels = [f"<extra_id_{i}>" for i in range(_NUM_SENTINELS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return {
        "tokenizer_config.json": {
            **special,
            "additional_special_tokens": sentinels,
            "extra_ids": _NUM_SENTINELS,
            "model_max_length": max_tokens,
            "tokenizer_class": TOKENIZER_CLASS,
        },
        "special_tokens_map.json": {**special, "additional_special_tokens": sentinels},
        "added_tokens.json": {name: num_pieces + _NUM_SENTINELS - 1 - i for i, name in enumerate(sentinels)},
    }
