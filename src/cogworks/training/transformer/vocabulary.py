"""The sentencepiece vocabulary of the bundled models: the words of the Shapes world, and bytes for all other text."""

from __future__ import annotations

import io
import os
import string
from pathlib import Path

import sentencepiece

from cogworks.data.shapes import draw_scene

NUM_CAPTIONS = 20_000


def train_vocabulary(path: Path, vocab_size: int, seed: int) -> None:
    """Train a T5-style vocabulary (pad 0, end 1, unknown 2, no begin) with byte fallback on training captions.

    Args:
        path: the `spiece.model` to write, whole or not at all.
        vocab_size: pieces in all; 256 of them are bytes.
    """
    captions = (draw_scene(seed, index, split="train").caption for index in range(NUM_CAPTIONS))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=captions,
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(model.getvalue())
    os.replace(temporary, path)
