"""Whether tokenizer, text encoder and transformer belong to each other."""

from __future__ import annotations

import sentencepiece

from cogworks.config.variants import BUNDLED, T5_XXL, Variant
from cogworks.doctor.configuration import Configuration
from cogworks.doctor.findings import Finding
from cogworks.errors import WeightsError
from cogworks.models.tokenizer import END_ID, PAD_ID, Tokenizer
from cogworks.weights.load import load_tokenizer
from cogworks.weights.source import ModelFolder, resolve

SENTENCE = "a red circle moves right"
T5_SENTENCE = "translate English to German: The house is wonderful."
T5_IDS = [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]  # of the published T5 vocabulary
MOST_SPARE_ROWS = 128  # T5 has 100 sentinels and 28 rows of padding above its pieces

_WRONG = "Take tokenizer and text encoder from the same model."


def check_text(folder: ModelFolder, configuration: Configuration) -> list[Finding]:
    """Look at the tokenizer, and at what the three say of each other."""
    variant, unread = configuration.variant, configuration.unread
    findings = []
    width, wanted = variant.text_encoder.width, variant.transformer.text_width
    if width != wanted and not unread & {"text_encoder", "transformer"}:
        text = f"The text encoder is {width} wide, and the transformer takes {wanted}."
        findings.append(Finding("problem", "text_encoder", text, _WRONG))
    try:
        tokenizer = load_tokenizer(folder)
    except (WeightsError, OSError) as error:
        if "tokenizer" in configuration.absent:
            return findings
        return [*findings, Finding("problem", "tokenizer", f"{error}.", "Fetch the tokenizer again.")]
    findings.append(_read_back(tokenizer))
    if "text_encoder" not in unread:
        findings += _vocabulary(tokenizer, variant)
    return findings


def _read_back(tokenizer: Tokenizer) -> Finding:
    """A sentence to ids and back to the same words."""
    ids = tokenizer.encode([SENTENCE], 64)[0].tolist()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    length = ids.index(END_ID)
    again = pieces.decode(ids[:length])
    values: dict[str, object] = {"pieces": len(tokenizer), "ids": ids[: length + 1]}
    if again != SENTENCE or set(ids[length + 1 :]) - {PAD_ID}:
        text = f"{SENTENCE!r} comes back from its ids as {again!r}: it does not know these words."
        return Finding("warning", "tokenizer", text, _WRONG, values)
    text = f"{len(tokenizer):,} pieces, <pad> {PAD_ID}, </s> {END_ID}; {SENTENCE!r} comes back from its ids."
    return Finding("ok", "tokenizer", text, values=values)


def _vocabulary(tokenizer: Tokenizer, variant: Variant) -> list[Finding]:
    rows, pieces = variant.text_encoder.vocab_size, len(tokenizer)
    values: dict[str, object] = {"rows": rows, "pieces": pieces}
    if pieces > rows:
        text = f"It has {pieces:,} pieces, and the text encoder has {rows:,} rows for them."
        return [Finding("problem", "tokenizer", text, _WRONG, values)]
    if variant.text_encoder == T5_XXL and tokenizer.encode([T5_SENTENCE], len(T5_IDS))[0].tolist() != T5_IDS:
        text = "The text encoder has the size of T5 v1.1 XXL, and the ids of a known sentence are not those of T5."
        return [Finding("problem", "tokenizer", text, _WRONG, values)]
    bundled = next((row for row in BUNDLED.values() if row.text_encoder == variant.text_encoder), None)
    if bundled is not None and tokenizer.model_bytes != load_tokenizer(resolve(bundled.name)).model_bytes:
        text = f"The text encoder has the size of that of {bundled.name}, and the pieces are not its pieces."
        return [Finding("warning", "tokenizer", text, _WRONG, values)]
    if rows - pieces > MOST_SPARE_ROWS:
        text = f"It has {pieces:,} pieces, far fewer than the {rows:,} rows of the text encoder."
        return [Finding("warning", "tokenizer", text, _WRONG, values)]
    text = f"The text encoder has a row for every piece ({rows:,} for {pieces:,})."
    return [Finding("ok", "tokenizer", text, values=values)]
