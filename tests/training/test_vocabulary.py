"""The vocabulary of the bundled models: trained as BPE, written as the kind that T5's readers expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from cogworks.data.shapes import draw_scene
from cogworks.models.tokenizer import Tokenizer
from cogworks.training.transformer import vocabulary


def test_the_kind_changes_and_captions_are_cut_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "NUM_CAPTIONS", 2000)
    given: list[bytes] = []
    right = vocabulary.as_unigram

    def keep(model: bytes) -> bytes:
        given.append(model)
        return right(model)

    monkeypatch.setattr(vocabulary, "as_unigram", keep)
    vocabulary.train_vocabulary(tmp_path / "spiece.model", 512, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["spiece.model"]
    bpe = sentencepiece.SentencePieceProcessor(model_proto=given[0])
    unigram: Any = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    captions = {draw_scene(7, index, split="train").caption for index in range(500)}
    assert all(bpe.encode(caption) == unigram.encode(caption) for caption in captions)
    assert len(Tokenizer(tmp_path / "spiece.model")) == 512
    # They are two kinds: words that no caption has may be cut otherwise.
    words = [first + second for first in ("mov", "gro", "tri", "back") for second in ("stars", "ringed", "lefts")]
    assert any(bpe.encode(word) != unigram.encode(word) for word in words)
