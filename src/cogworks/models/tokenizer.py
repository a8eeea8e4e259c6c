"""Prompts to token ids: sentencepiece, then the conventions of T5.

The ids are those of the pieces, then </s>; short prompts are padded with <pad>, long ones cut so that </s> stays last.
A prompt is text, not markup: a special token that is spelled out in it (`</s>`, `<pad>`, `<extra_id_0>`) is encoded as
the characters it is made of.

Letters: B prompts, N tokens.
Source: T5, arXiv:1910.10683; docs/parity.md#tokens lists where transformers differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

PAD_ID = 0
END_ID = 1
_SPACE = "\u2581"  # how sentencepiece writes a space inside a piece


class Tokenizer:
    """A sentencepiece model with T5's conventions.

    Args:
        model: path of a `spiece.model`, or its content.

    Raises:
        ValueError: the model is damaged, or does not have <pad> at 0 and </s> at 1.
    """

    def __init__(self, model: str | Path | bytes) -> None:
        self.model_bytes = model if isinstance(model, bytes) else Path(model).read_bytes()
        """The content of the `spiece.model`."""
        where = "the tokenizer" if isinstance(model, bytes) else str(model)
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(self.model_bytes)
        except RuntimeError:
            raise ValueError(f"{where} is not a sentencepiece model; fetch it again") from None
        if (self._pieces.pad_id(), self._pieces.eos_id()) != (PAD_ID, END_ID):
            raise ValueError(
                f"{where} has <pad> at {self._pieces.pad_id()} and </s> at {self._pieces.eos_id()}, "
                f"expected {PAD_ID} and {END_ID}: it is not the tokenizer of a T5 model"
            )

    def __len__(self) -> int:
        """Number of pieces. T5's embedding has more rows than that: sentinels and padding, never used here."""
        return self._pieces.vocab_size()

    def encode(self, prompts: Sequence[str], max_tokens: int) -> Tensor:
        """Token ids (B, N) int64 with N = `max_tokens`.

        Args:
            prompts: any text; an empty prompt gives </s> and padding.
            max_tokens: length of every row, </s> included; at least 1.

        Raises:
            ValueError: `max_tokens` is not positive.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, got {max_tokens}")
        ids = torch.full((len(prompts), max_tokens), PAD_ID)
        for row, prompt in zip(ids, prompts, strict=True):
            kept = [*self._pieces.encode_as_ids(_encodable(prompt))[: max_tokens - 1], END_ID]
            row[: len(kept)] = torch.tensor(kept)
        return ids

    def words(self, prompt: str) -> list[int]:
        """For each piece of `prompt`, the number of the word that it is of; words are what spaces part."""
        starts = (piece.startswith(_SPACE) for piece in self._pieces.encode_as_pieces(_encodable(prompt)))
        return [number - 1 for number in accumulate(starts, initial=0)][1:]

    def truncated(self, prompt: str, max_tokens: int) -> str | None:
        """The end of `prompt` that `encode` cuts off, as sentencepiece reads it, or None if all of it fits."""
        lost = self._pieces.encode_as_pieces(_encodable(prompt))[max_tokens - 1 :]
        return "".join(lost).replace(_SPACE, " ").strip() if lost else None


def _encodable(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot express, become replacement characters."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
