"""Small models of the reference libraries, every parameter perturbed, and a small sentencepiece model."""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece
import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import CogVideoXPipeline
    from transformers import T5Config

TEXT_TOKENS = 16

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "num_layers": 2,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": TEXT_TOKENS,
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "2b": {},
    "5b": {"use_rotary_positional_embeddings": True},
    "5b-i2v": {
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
        "in_channels": 8,
    },
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
    "1.5-i2v": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "in_channels": 8,
        "ofs_embed_dim": 8,
    },
}
"""What each published model changes in `TRANSFORMER`, as its configuration file says it."""

VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_height": 64,
    "sample_width": 64,
    "scaling_factor": 0.7,
}
SCHEDULE: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def t5_config() -> T5Config:
    """A T5 v1.1 encoder of two layers."""
    from transformers import T5Config

    return T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", vocab_size=256
    )


def perturb(network: nn.Module, seed: int) -> nn.Module:
    """Add noise to every parameter and learned buffer, so that no two of them are equal or zero."""
    generator = torch.Generator().manual_seed(seed)
    network.float()  # diffusers makes its learned position table in float64
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return network.eval()


def diffusers_pipeline(variation: str, seed: int = 0) -> CogVideoXPipeline:
    """A pipeline of diffusers with small random networks."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5EncoderModel

    torch.manual_seed(seed)
    changes = VARIATIONS[variation]
    kind = CogVideoXImageToVideoPipeline if "in_channels" in changes else CogVideoXPipeline
    return kind(
        tokenizer=t5_tokenizer(),
        text_encoder=perturb(T5EncoderModel(t5_config()), seed + 1),
        vae=perturb(AutoencoderKLCogVideoX(**VAE), seed + 2),
        transformer=perturb(CogVideoXTransformer3DModel(**{**TRANSFORMER, **changes}), seed + 3),
        scheduler=CogVideoXDDIMScheduler(**SCHEDULE),
    )


WORDS = "a red circle blue square moves right left up on black white background the quickly"


@functools.cache
def small_spiece() -> bytes:
    """A sentencepiece model with T5's conventions: <pad> 0, </s> 1, <unk> 2, no <s>, its character map."""
    generator = random.Random(0)
    sentences = [" ".join(generator.choices(WORDS.split(), k=6)) for _ in range(500)]
    sentences += ["über café naïve 123 456 7890 ABC XYZ, (hello) [world] 'q' #@&*%!?"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return model.getvalue()


def t5_tokenizer() -> Any:
    """transformers' tokenizer over `small_spiece`."""
    import tempfile

    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(small_spiece())
        return T5Tokenizer.from_pretrained(folder)
