"""The sentencepiece model of a tokenizer folder.

Published folders hold `spiece.model`. Folders that transformers 5 saves hold only `tokenizer.json`, which has the same
pieces, scores and character map in another form; the model is built from them again.
Source: sentencepiece_model.proto (field numbers), the protocol buffer wire format.
"""

from __future__ import annotations

import base64
import binascii
import struct
from pathlib import Path
from typing import Any

from cogworks.errors import WeightsError
from cogworks.weights.storage import read_json

SPIECE = "spiece.model"
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # SentencePiece.Type
_TYPES = {"<unk>": _UNKNOWN, "<pad>": _CONTROL, "</s>": _CONTROL}
_UNIGRAM = 1  # TrainerSpec.ModelType


def read_spiece(folder: Path) -> bytes:
    """The content of `spiece.model`, rebuilt from `tokenizer.json` where that is all there is.

    Raises:
        WeightsError: neither file is there, or `tokenizer.json` is not of a T5 tokenizer.
    """
    if (folder / SPIECE).is_file():
        return (folder / SPIECE).read_bytes()
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise WeightsError(f"{folder} has no tokenizer: expected {SPIECE} or tokenizer.json")
    content = read_json(path)
    try:
        vocabulary = content["model"]["vocab"]
        pieces = [(str(piece), float(score)) for piece, score in vocabulary if not piece.startswith("<extra_id_")]
        charsmap = base64.b64decode(_precompiled(content["normalizer"]), validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise WeightsError(f"{path} is not a T5 tokenizer: it needs scored pieces and a character map") from None
    return _model(pieces, charsmap)


def _precompiled(normalizer: dict[str, Any]) -> str:
    """The character map, which may stand alone or first in a sequence."""
    if normalizer["type"] == "Sequence":
        normalizer = next(part for part in normalizer["normalizers"] if part["type"] == "Precompiled")
    return normalizer["precompiled_charsmap"]


def _model(pieces: list[tuple[str, float]], charsmap: bytes) -> bytes:
    entries = [
        _bytes(1, piece.encode()) + _float(2, score) + _number(3, _TYPES.get(piece, _NORMAL)) for piece, score in pieces
    ]
    trainer = _number(3, _UNIGRAM) + _number(4, len(pieces))
    normalizer = _bytes(1, b"nmt_nfkc") + _bytes(2, charsmap)
    return b"".join(_bytes(1, entry) for entry in entries) + _bytes(2, trainer) + _bytes(3, normalizer)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
