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
from cogworks.weights.load import Components

log = logging.getLogger(__name__)

# A text encoder larger than this is loaded for each new prompt and dropped: T5 XXL is 9.5 GB, an encoded prompt 2 MB.
KEEP_TEXT_ENCODER_BYTES = 512 * 2**20
KEEP_PROMPTS = 128


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
        self._kept: TextEncoder | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings are given in: the dtype of the transformer."""
        return self.components.transformer.proj_out.weight.dtype

    def branches(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        *,
        guided: bool,
    ) -> Branches:
        """What the transformer is told, from texts or embeddings that `request.check_prompts` has passed.

        Where nothing is said of the unconditional branch it is what the variant was trained with: the encoded empty
        string, or zeros.
        """
        text = prompt_embeds if prompt is None else [prompt] if isinstance(prompt, str) else prompt
        assert text is not None
        if not guided:
            return Branches(self._embeddings(text), None)
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
        # All texts first, so that a large text encoder is loaded once for both branches.
        self.encode([each for source in (text, negative) if isinstance(source, list) for each in source])
        return Branches(self._embeddings(text), self._embeddings(negative))

    def _embeddings(self, source: Tensor | list[str]) -> Tensor:
        return self.encode(source) if isinstance(source, list) else source.to(self.components.device, self.dtype)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B, N, D) in the dtype and on the device of the transformer. Overlong prompts are cut, with a warning."""
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if unknown:
            forgettable = [prompt for prompt in self._known if prompt not in prompts]
            for prompt in forgettable[: max(len(self._known) + len(unknown) - KEEP_PROMPTS, 0)]:
                del self._known[prompt]
            self._known.update(zip(unknown, self._encode(unknown), strict=True))
        config = self.components.variant.transformer
        embeddings = torch.empty(len(prompts), config.text_tokens, config.text_width, dtype=self.dtype)
        for row, prompt in zip(embeddings, prompts, strict=True):
            row.copy_(self._known[prompt])
        return embeddings.to(self.components.device)

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> Tensor:  # (B, N, D) on the CPU
        tokenizer, limit = self.components.tokenizer, self.components.variant.transformer.text_tokens
        for prompt in prompts:
            if (rest := tokenizer.truncated(prompt, limit)) is not None:
                log.warning("the prompt is longer than %d tokens; the model will not see: %r", limit, rest)
        encoder = self._kept or self.components.load_text_encoder(dtype=self.dtype)
        size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
        self._kept = encoder if size <= KEEP_TEXT_ENCODER_BYTES else None
        return encoder(tokenizer.encode(prompts, limit).to(encoder.embed.weight.device)).cpu()
