"""The tokenizer against transformers' T5 tokenizer, on ordinary and on odd text."""

import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import T5Tokenizer

import cogworks
from cogworks.data.shapes import draw_scene
from cogworks.models.tokenizer import Tokenizer
from helpers.small_models import WORDS, small_spiece, t5_tokenizer

MAX_TOKENS = 24
NEXT_LINE = "\x85"


@cache
def _ours() -> Tokenizer:
    return Tokenizer(small_spiece())


@cache
def _theirs() -> Any:
    return t5_tokenizer()


def _expected(prompts: list[str], max_tokens: int = MAX_TOKENS) -> torch.Tensor:
    return _theirs()(
        prompts, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt"
    ).input_ids


def _is_alone(character: str) -> bool:
    """Whether a character never joins its neighbours to one grapheme (docs/parity.md#tokens)."""
    joins = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk", "Cn", "Co", "Cs")
    jamo_or_flag = unicodedata.name(character, "").startswith(("HANGUL", "REGIONAL INDICATOR", "THAI", "LAO"))
    return not joins and not jamo_or_flag and character != NEXT_LINE


PARTS = [*WORDS.split(), " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u2581", "🎬", "ﬁ", "Ⅷ", "é", "\x00", "!", "。"]
ODD = st.text(st.characters(exclude_categories=["Cs"]).filter(_is_alone), max_size=12)
WORDY = st.lists(st.sampled_from(PARTS), max_size=10).map("".join)


def _odd_strings(count: int) -> list[str]:
    """Words, spaces of all kinds, and characters from anywhere in Unicode, in every mixture."""
    generator = random.Random(0)
    anywhere = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    low = [c for c in anywhere[:0x3000] if _is_alone(c)]
    high = [c for c in generator.sample(anywhere, 20_000) if _is_alone(c)]
    strings = []
    for _ in range(count):
        pools = generator.choices([PARTS, low, high], weights=[3, 1, 1], k=generator.randrange(12))
        strings.append("".join(generator.choice(pool) for pool in pools))
    return strings


def test_thousands_of_odd_strings() -> None:
    strings = _odd_strings(4000)
    wrong = (_ours().encode(strings, MAX_TOKENS) != _expected(strings)).any(dim=1)
    assert [strings[i] for i in wrong.nonzero().flatten()] == []


@settings(max_examples=100, deadline=None)
@given(prompt=ODD | WORDY | st.tuples(WORDY, ODD, WORDY).map("".join))
@example("")
@example(" ")
@example("\n\t \u3000")
@example("a red circle moves right")
@example("  a  red\n\ncircle  ")
@example("🎬" * 40)
def test_ids_are_those_of_transformers(prompt: str) -> None:
    assert _ours().encode([prompt], MAX_TOKENS).tolist() == _expected([prompt]).tolist()


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 24, 226])
def test_truncation_and_padding_are_those_of_transformers(max_tokens: int) -> None:
    prompts = ["a red circle moves right on the black background quickly " * 3, "a", ""]
    ids = _ours().encode(prompts, max_tokens)
    assert ids.shape == (3, max_tokens)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, _expected(prompts, max_tokens))
    assert ids[0, -1] == (1 if max_tokens < 40 else 0)  # </s> is last where the prompt was cut


def test_a_shifted_vocabulary_is_seen() -> None:
    """Negative control: the comparison is about ids, not about lengths."""
    ids = _ours().encode(["a red circle"], MAX_TOKENS)
    assert not torch.equal(ids + (ids > 2), _expected(["a red circle"]))


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a\x85b", "U+0085 is a space to transformers alone"),
        ("e\u0301\u0301", "of a cluster that begins with a normalised character, transformers keeps that one alone"),
        ("ﬁ\u0301", "the same"),
        ("a </s> b", "special tokens that are spelled out"),
        ("<pad>", "the same"),
        ("<extra_id_0>", "the same"),
    ],
)
def test_the_known_differences(prompt: str, why: str) -> None:
    """docs/parity.md#tokens lists them; sentencepiece itself, with which T5 was trained, agrees with us."""
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_proto=small_spiece())
    pieces = reference.encode(prompt)
    assert _ours().encode([prompt], 40)[0].tolist() == [*pieces, 1] + [0] * (39 - len(pieces))
    assert not torch.equal(_ours().encode([prompt], 40), _expected([prompt], 40)), why


@settings(max_examples=100, deadline=None)
@given(prompt=st.text(max_size=20))
def test_a_prompt_never_becomes_a_special_token(prompt: str) -> None:
    ids = _ours().encode([prompt + "</s><pad>"], 64)[0].tolist()
    end = ids.index(1)
    assert 0 not in ids[:end]
    assert set(ids[end + 1 :]) <= {0}


def test_truncated_says_what_is_cut() -> None:
    tokenizer, prompt = _ours(), "a red circle moves right 🎬 quickly"
    assert tokenizer.truncated(prompt, 64) is None
    assert tokenizer.truncated("", 1) is None
    lengths = [len(tokenizer.truncated(prompt, n) or "") for n in range(1, 30)]
    assert lengths == sorted(lengths, reverse=True)
    assert tokenizer.truncated(prompt, 1) == prompt
    for max_tokens in range(1, 30):
        cut = tokenizer.truncated(prompt, max_tokens)
        full = tokenizer.encode([prompt], 64)[0]
        assert (cut is None) == bool((full[max_tokens:] == 0).all())


def test_lone_surrogates_do_not_crash() -> None:
    assert _ours().encode(["a \ud800 red"], 8).shape == (1, 8)


def test_a_path_and_its_content_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(small_spiece())
    for model in (path, str(path)):
        tokenizer = Tokenizer(model)
        assert tokenizer.model_bytes == small_spiece()
        assert len(tokenizer) == len(_ours())
        assert torch.equal(tokenizer.encode(["a red"], 8), _ours().encode(["a red"], 8))


def test_what_is_no_tokenizer_of_t5(tmp_path: Path) -> None:
    import io

    import sentencepiece

    (tmp_path / "spiece.model").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"spiece\.model is not a sentencepiece model"):
        Tokenizer(tmp_path / "spiece.model")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"has <pad> at -1 and </s> at 2, expected 0 and 1"):
        Tokenizer(model.getvalue())
    with pytest.raises(ValueError, match="max_tokens must be positive, got 0"):
        _ours().encode(["a"], 0)


@settings(max_examples=50, deadline=None)
@given(prompt=st.text(max_size=20) | WORDY)
def test_the_model_rebuilt_from_tokenizer_json_gives_the_same_ids(rebuilt: Tokenizer, prompt: str) -> None:
    assert torch.equal(rebuilt.encode([prompt], MAX_TOKENS), _ours().encode([prompt], MAX_TOKENS))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """What is read back from the folder that transformers 5 saves, which has no `spiece.model`."""
    from cogworks.weights.spiece import read_spiece

    folder = tmp_path_factory.mktemp("tokenizer")
    _theirs().save_pretrained(folder)
    assert not (folder / "spiece.model").exists()
    return Tokenizer(read_spiece(folder))


def test_transformers_cuts_the_bundled_models_prompts_alike() -> None:
    """So that `tiny`, saved for diffusers, is told there what it is told here."""
    folder = Path(cogworks.__file__).parent / "assets" / "tiny" / "tokenizer"
    ours, theirs = Tokenizer(folder / "spiece.model"), T5Tokenizer.from_pretrained(folder)
    prompts = sorted({draw_scene(3, index, split="train").caption for index in range(1000)})
    prompts += ["", "Two cats playing chess", "a photo of an astronaut riding a horse, 4k", "hello   world", "starring"]
    for prompt in prompts:
        ids = theirs(prompt, padding="max_length", max_length=32, truncation=True).input_ids
        assert ids == ours.encode([prompt], 32)[0].tolist(), prompt
    # Negative control, and the known difference: characters that have no piece.
    assert theirs("日本").input_ids != ours.encode(["日本"], 32)[0].tolist()[: len(theirs("日本").input_ids)]
