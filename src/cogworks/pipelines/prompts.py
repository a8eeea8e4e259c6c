"""Prompts to text embeddings.

Letters: B prompts, N text tokens, D width of the text encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cogworks.models.text_encoder import TextEncoder
from cogworks.pipelines.finite import check_result
from cogworks.pipelines.prompt_cache import PromptCache
from cogworks.pipelines.residence import Residence
from cogworks.weights.load import Components

log = logging.getLogger(__name__)

Source = Tensor | list[str]
"""Embeddings (B, N, D), or the texts that they are made from."""

KEEP_PROMPTS = 128  # a text encoder may have to be read again for a new prompt: T5 XXL is 9.5 GB, its result 2 MB


class Branches(NamedTuple):
    """Text embeddings (B, N, D) of the two branches of guidance; `negative` is None where there is no guidance."""

    text: Tensor
    negative: Tensor | None

    def repeated(self, num_videos: int) -> Branches:
        """Every row `num_videos` times, one after the other."""
        negative = None if self.negative is None else self.negative.repeat_interleave(num_videos, 0)
        return Branches(self.text.repeat_interleave(num_videos, 0), negative)


class PromptEncoder:
    """Encodes prompts and remembers what it encoded: a text it knows does not need the text encoder again.

    Behind what it remembers are the files of `PromptCache`. Every text is encoded alone: its embedding does not depend
    on which others were unknown at the time.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self._cache = PromptCache(components)
        self._known: dict[str, Tensor] = {}
        self._encoder: TextEncoder | None = None  # whose results these are, where it is not that of the file

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings are given in: the dtype of the transformer."""
        return self.components.dtype

    def branches(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        *,
        guided: bool,
        residence: Residence | None = None,
    ) -> Branches:
        """What the transformer is told, from texts or embeddings that `request.check_prompts` has passed.

        Where nothing is said of the unconditional branch it is what the variant was trained with: the encoded empty
        string, or zeros.
        """
        text, negative = self._sources(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guided=guided)
        # All texts first, so that a text encoder that does not stay is read once for both branches.
        self.encode(_texts(text, negative), residence)
        return Branches(
            self._embeddings(text, residence), None if negative is None else self._embeddings(negative, residence)
        )

    def needs_encoder(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        *,
        guided: bool,
    ) -> bool:
        """Whether `branches` has to read the text encoder. What it does not need is in memory then."""
        sources = self._sources(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guided=guided)
        return bool(self._unknown(_texts(*sources)))

    def _sources(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        *,
        guided: bool,
    ) -> tuple[Source, Source | None]:
        """What each branch comes from."""
        text = prompt_embeds if prompt is None else [prompt] if isinstance(prompt, str) else prompt
        assert text is not None
        if not guided:
            return text, None
        if negative_prompt_embeds is not None:
            return text, negative_prompt_embeds
        if isinstance(negative_prompt, list):
            return text, negative_prompt
        if negative_prompt is None and self.components.variant.unconditional == "zeros":
            config = self.components.variant.transformer
            return text, torch.zeros(len(text), config.text_tokens, config.text_width)
        return text, [negative_prompt or ""] * len(text)

    def _embeddings(self, source: Source, residence: Residence | None) -> Tensor:
        if isinstance(source, list):
            return self.encode(source, residence)
        return source.to(self.components.device, self.dtype)

    def encode(self, prompts: Sequence[str], residence: Residence | None = None) -> Tensor:
        """(B, N, D) in the dtype and on the device of the transformer. Overlong prompts are cut, with a warning.

        Args:
            residence: where the networks of this run are; without it the text encoder stays in memory.

        Raises:
            NumericsError: the text encoder gave numbers that are not finite.
        """
        unknown = self._unknown(prompts)
        if unknown:
            self._encode(unknown, residence)
        config = self.components.variant.transformer
        embeddings = torch.empty(len(prompts), config.text_tokens, config.text_width, dtype=self.dtype)
        for row, prompt in zip(embeddings, prompts, strict=True):
            row.copy_(self._known[prompt])
        return embeddings.to(self.components.device)

    def _unknown(self, prompts: Sequence[str]) -> list[str]:
        """Those that the text encoder has to read; the others are in memory afterwards."""
        encoder = self.components.networks.text_encoder
        current = encoder.get() if encoder.lent else None
        if current is not self._encoder:
            self._known.clear()
            self._encoder = current
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if not new:
            return []
        forgettable = [prompt for prompt in self._known if prompt not in prompts]
        for prompt in forgettable[: max(len(self._known) + len(new) - KEEP_PROMPTS, 0)]:
            del self._known[prompt]
        for prompt in new:
            embedding = self._cache.read(self._tokens(prompt)[0])
            if embedding is not None:
                self._learn(prompt, embedding)
        return [prompt for prompt in new if prompt not in self._known]

    @torch.no_grad()
    def _encode(self, prompts: list[str], residence: Residence | None) -> None:
        with (residence or Residence(self.components)).use(self.components.networks.text_encoder) as encoder:
            for prompt in prompts:
                ids = self._tokens(prompt)
                embedding = encoder(ids.to(encoder.embed.weight.device))[0]
                check_result(embedding, f"the text encoder's embedding of {prompt!r}", embedding.dtype)
                self._learn(prompt, embedding.cpu())
                self._cache.write(ids[0], self._known[prompt])

    def _learn(self, prompt: str, embedding: Tensor) -> None:  # (N, D) on the CPU
        limit = self.components.variant.transformer.text_tokens
        if (rest := self.components.tokenizer.truncated(prompt, limit)) is not None:
            log.warning("the prompt is longer than %d tokens; the model will not see: %r", limit, rest)
        self._known[prompt] = embedding

    def _tokens(self, prompt: str) -> Tensor:  # (1, N)
        return self.components.tokenizer.encode([prompt], self.components.variant.transformer.text_tokens)


def _texts(*sources: Source | None) -> list[str]:
    return [text for source in sources if isinstance(source, list) for text in source]
