"""The transformer block and the seam around the loop over blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, cat, nn

from cogworks.config.architecture import TransformerConfig
from cogworks.nn.attention import JointAttention
from cogworks.nn.gelu import gelu_linear, linear_gelu
from cogworks.nn.layout import StepInfo, TokenLayout
from cogworks.nn.linear import Linear
from cogworks.nn.modulation import BlockModulation, gated_add, modulated_norm
from cogworks.nn.overwrite import may_overwrite
from cogworks.nn.rope import Rope


class FeedForward(nn.Module):
    """Two linears with tanh-GELU, shared by text and video tokens."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = Linear(width, ratio * width)
        self.down = Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D) -> (B, N, D)
        if torch.is_grad_enabled():
            return gelu_linear(self.down, self.up(x))
        return self.down(linear_gelu(self.up, x))


class Block(nn.Module):
    """Attention, then feed-forward, each between a modulated norm and a gated residual.

    The modulation is an argument: it depends on the timestep alone and is computed outside, once for all blocks.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = JointAttention(config.num_heads, config.head_width, config.qk_norm_eps)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = FeedForward(config.width, config.mlp_ratio)

    def forward(self, x: Tensor, modulation: BlockModulation, rope: Rope | None, layout: TokenLayout) -> Tensor:
        attended = self.attention(modulated_norm(self.norm1, x, modulation.attention, layout), rope, layout)
        x = gated_add(x, attended, modulation.attention, layout, overwrite=may_overwrite(self.attention.out))
        changed = self.mlp(modulated_norm(self.norm2, x, modulation.mlp, layout))
        return gated_add(x, changed, modulation.mlp, layout, overwrite=may_overwrite(self.mlp.down))


class LastBlock(Block):
    """The block behind which nobody reads text: its text tokens leave as they came, where there is one segment.

    That saves what attention and feed-forward would do for them: much where text is long and video short.
    """

    def forward(self, x: Tensor, modulation: BlockModulation, rope: Rope | None, layout: TokenLayout) -> Tensor:
        video_layout = layout.without_text
        if video_layout is None:
            return super().forward(x, modulation, rope, layout)
        first = layout.length - video_layout.length
        text, video = x.split([first, video_layout.length], dim=1)
        attended = self.attention(modulated_norm(self.norm1, x, modulation.attention, layout), rope, layout, first)
        overwrite = may_overwrite(self.attention.out)
        video = gated_add(video, attended, modulation.attention, video_layout, overwrite=overwrite)
        changed = self.mlp(modulated_norm(self.norm2, video, modulation.mlp, video_layout))
        video = gated_add(video, changed, modulation.mlp, video_layout, overwrite=may_overwrite(self.mlp.down))
        return cat([text, video], dim=1)


class Conditioning(NamedTuple):
    """What every block receives beside its tokens: one modulation a block, and the rotation of the tokens."""

    modulations: list[BlockModulation]
    rope: Rope | None


class BlockRunner(nn.Module):
    """Seam: the loop over blocks. No parameters; a wrapper may skip, cache, split or offload what runs inside."""

    def forward(
        self,
        blocks: Iterable[nn.Module],
        tokens: Tensor,
        conditioning: Conditioning,
        layout: TokenLayout,
        step: StepInfo | None,
    ) -> Tensor:
        for block, modulation in zip(blocks, conditioning.modulations, strict=True):
            tokens = block(tokens, modulation, conditioning.rope, layout)
        return tokens
