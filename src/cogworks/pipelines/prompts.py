"""Prompts to text embeddings.

Letters: B prompts, N text tokens, D width of the text encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cogworks.pipelines.finite import check_result
from cogworks.pipelines.residence import Residence
from cogworks.weights.load import Components

log = logging.getLogger(__name__)

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
    """Encodes prompts and remembers what it encoded: a text it knows does not need the text encoder again."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self._known: dict[str, Tensor] = {}

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
        text = prompt_embeds if prompt is None else [prompt] if isinstance(prompt, str) else prompt
        assert text is not None
        if not guided:
            return Branches(self._embeddings(text, residence), None)
        negative: Tensor | list[str]
        if negative_prompt_embeds is not None:
            negative = negative_prompt_embeds
        elif isinstance(negative_prompt, list):
            negative = negative_prompt
        elif negative_prompt is None and self.components.variant.unconditional == "zeros":
            config = self.components.variant.transformer
            negative = torch.zeros(len(text), config.text_tokens, config.text_width)
        else:
            negative = [negative_prompt or ""] * len(text)
        # All texts first, so that a text encoder that does not stay is read once for both branches.
        self.encode([each for source in (text, negative) if isinstance(source, list) for each in source], residence)
        return Branches(self._embeddings(text, residence), self._embeddings(negative, residence))

    def _embeddings(self, source: Tensor | list[str], residence: Residence | None) -> Tensor:
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
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if unknown:
            forgettable = [prompt for prompt in self._known if prompt not in prompts]
            for prompt in forgettable[: max(len(self._known) + len(unknown) - KEEP_PROMPTS, 0)]:
                del self._known[prompt]
            self._known.update(zip(unknown, self._encode(unknown, residence), strict=True))
        config = self.components.variant.transformer
        embeddings = torch.empty(len(prompts), config.text_tokens, config.text_width, dtype=self.dtype)
        for row, prompt in zip(embeddings, prompts, strict=True):
            row.copy_(self._known[prompt])
        return embeddings.to(self.components.device)

    @torch.no_grad()
    def _encode(self, prompts: list[str], residence: Residence | None) -> Tensor:  # (B, N, D) on the CPU
        tokenizer, limit = self.components.tokenizer, self.components.variant.transformer.text_tokens
        for prompt in prompts:
            if (rest := tokenizer.truncated(prompt, limit)) is not None:
                log.warning("the prompt is longer than %d tokens; the model will not see: %r", limit, rest)
        with (residence or Residence(self.components)).use(self.components.networks.text_encoder) as encoder:
            embeddings = encoder(tokenizer.encode(prompts, limit).to(encoder.embed.weight.device))
        for prompt, embedding in zip(prompts, embeddings, strict=True):
            check_result(embedding, f"the text encoder's embedding of {prompt!r}", embedding.dtype)
        return embeddings.cpu()
