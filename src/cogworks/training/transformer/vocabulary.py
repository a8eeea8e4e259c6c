"""The sentencepiece vocabulary of the bundled models: the words of the Shapes world, and bytes for all other text."""

from __future__ import annotations

import io
import os
import string
from importlib import import_module
from pathlib import Path
from typing import Any

import sentencepiece

from cogworks.config.training_data import TrainingData
from cogworks.data.shapes import draw_scene
from cogworks.errors import RecipeError
from cogworks.models.tokenizer import Tokenizer

NUM_CAPTIONS = 20_000
VOCABULARY = "spiece.model"


def learned_tokenizer(run: Path, data: TrainingData, vocab_size: int) -> Tokenizer:
    """The tokenizer in the folder of a run, learned from captions the first time. Raises RecipeError for real data."""
    path = run / VOCABULARY
    if not path.exists():
        if data.kind != "shapes":
            raise RecipeError(
                "a new vocabulary is learned from the Shapes world alone: name a model under text_encoder"
            )
        train_vocabulary(path, vocab_size, data.seed)
    return Tokenizer(path)


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
    temporary.write_bytes(as_unigram(model.getvalue()))
    os.replace(temporary, path)


def as_unigram(model: bytes) -> bytes:
    """A BPE model as one of T5's own kind, of the same pieces: text is cut into as few of them as can be.

    transformers takes every `spiece.model` of a T5 for a unigram model; it would cut the words of a BPE model otherwise
    than sentencepiece does.

    Args:
        model: content of a `spiece.model`, whose pieces are scored by the order of their merges.
    """
    messages: Any = import_module("sentencepiece.sentencepiece_model_pb2")  # needs protobuf, which tensorboard brings
    content = messages.ModelProto.FromString(model)
    content.trainer_spec.model_type = messages.TrainerSpec.UNIGRAM
    for piece in content.pieces:
        if piece.type == messages.ModelProto.SentencePiece.NORMAL:
            piece.score = -1 + 1e-6 * piece.score  # one for each piece; of equally many, those merged first
    written: bytes = content.SerializeToString()
    return written
