"""Captions, and what every token of them should know.

Letters: B captions, M text tokens, F kinds of facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cogworks.config.training_data import ShapesData
from cogworks.data.captions import TEMPLATES, ObjectWords, word_owners, write_caption
from cogworks.data.shapes import COLOURS, MOTIONS, SHAPES, SIZE_WORD_PROBABILITY, draw_scene
from cogworks.data.vague_captions import vague_template, vague_words
from cogworks.models.tokenizer import Tokenizer
from cogworks.rng import derive_seed
from cogworks.training.clips.batches import CaptionBatch

FACTS: dict[str, tuple[str, ...]] = {
    "object": ("first", "second"),
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "motion": MOTIONS,
}
"""What a token of an object's phrase tells, and the values that it may take."""

UNKNOWN = -100  # what torch's cross entropy leaves out


class LabelledCaption(NamedTuple):
    """A caption, and the objects that it speaks of as it speaks of them, in their order."""

    text: str
    objects: tuple[ObjectWords, ...]


class CaptionBatches:
    """Captions of training scenes without end.

    Args:
        batch_size: of each replica.
        max_tokens: of a caption.
    """

    def __init__(
        self,
        data: ShapesData,
        tokenizer: Tokenizer,
        batch_size: int,
        max_tokens: int,
        *,
        replica: int = 0,
        replicas: int = 1,
    ) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.replica = replica
        self.replicas = replicas

    def __getitem__(self, number: int) -> CaptionBatch:
        first = (number * self.replicas + self.replica) * self.batch_size
        captions = [labelled_caption(self.data, index) for index in range(first, first + self.batch_size)]
        return CaptionBatch(
            self.tokenizer.encode([caption.text for caption in captions], self.max_tokens),
            torch.stack([token_facts(caption, self.tokenizer, self.max_tokens) for caption in captions]),
            number,
        )

    def fingerprint(self) -> str:
        return self.data.model_dump_json()


def labelled_caption(data: ShapesData, index: int) -> LabelledCaption:
    """Caption number `index` of training scenes, in any phrasing."""
    scene = draw_scene(data.seed, index, split="train", two_objects=data.two_objects)
    rng = np.random.default_rng(derive_seed("labelled caption", data.seed, index))
    says_size = len(scene.objects) == 1 and rng.random() < SIZE_WORD_PROBABILITY
    objects = [ObjectWords(*item.triple, size=item.size if says_size else None) for item in scene.objects]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    if rng.random() < data.vague_captions:
        objects, template = [vague_words(words, rng) for words in objects], vague_template(rng)
    return LabelledCaption(write_caption(objects, scene.background, template), tuple(objects))


def token_facts(caption: LabelledCaption, tokenizer: Tokenizer, max_tokens: int) -> Tensor:
    """(M, F) int64 facts of one caption's tokens: for each of `FACTS` the number of its value.

    `UNKNOWN` stands outside of the objects' phrases, and where the caption leaves a fact unsaid.
    """
    of_object = [_numbers(number, words) for number, words in enumerate(caption.objects)]
    owners = word_owners(caption.text, caption.objects)
    facts = torch.full((max_tokens, len(FACTS)), UNKNOWN)
    for token, word in enumerate(tokenizer.words(caption.text)[: max_tokens - 1]):
        owner = owners[word]
        if owner is not None:
            facts[token] = torch.tensor(of_object[owner])
    return facts


def _numbers(number: int, words: ObjectWords) -> list[int]:
    said = (FACTS["object"][number], words.shape, words.colour, words.motion)
    return [_number(values, value) for values, value in zip(FACTS.values(), said, strict=True)]


def _number(values: Sequence[str], value: str | None) -> int:
    return values.index(value) if value in values else UNKNOWN
