"""Prompts to text embeddings.

Letters: B prompts, N text tokens, D width of the text encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from cogworks.models.text_encoder import TextEncoder
from cogworks.weights.load import Components

log = logging.getLogger(__name__)

# A text encoder larger than this is loaded for each new prompt and dropped: T5 XXL is 9.5 GB, the encoded prompt 2 MB.
KEEP_TEXT_ENCODER_BYTES = 512 * 2**20


class PromptEncoder:
    """Encodes prompts and remembers what it encoded: the same text never needs the text encoder again."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self._known: dict[str, Tensor] = {}
        self._kept: TextEncoder | None = None

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(B, N, D) in the dtype and on the device of the transformer. Overlong prompts are cut, with a warning."""
        unknown = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._known))
        if unknown:
            self._encode(unknown)
        embeddings = torch.stack([self._known[prompt] for prompt in prompts])
        return embeddings.to(self.components.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings are given in: the dtype of the transformer."""
        return self.components.transformer.proj_out.weight.dtype

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> None:
        tokenizer, limit = self.components.tokenizer, self.components.variant.transformer.text_tokens
        for prompt in prompts:
            if (rest := tokenizer.truncated(prompt, limit)) is not None:
                log.warning("the prompt is longer than %d tokens; the model will not see: %r", limit, rest)
        ids = tokenizer.encode(prompts, limit)
        encoder = self._kept or self.components.load_text_encoder(dtype=self.dtype)
        embeddings = encoder(ids.to(encoder.embed.weight.device))
        size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
        self._kept = encoder if size <= KEEP_TEXT_ENCODER_BYTES else None
        self._known.update(zip(prompts, embeddings.cpu(), strict=True))

    def unconditional(self) -> Tensor:
        """(1, N, D): what guidance subtracts, the encoded empty string or zeros, as the variant says."""
        if self.components.variant.unconditional == "empty":
            return self.encode([""])
        config = self.components.variant.transformer
        shape = (1, config.text_tokens, config.text_width)
        return torch.zeros(shape, dtype=self.dtype, device=self.components.device)
