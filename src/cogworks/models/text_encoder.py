"""A T5 v1.1 encoder.

Letters: B batch, N tokens, D width, H heads, d head width.
Sources: T5, arXiv:1910.10683; v1.1 adds the gated tanh-GELU feed-forward. No attention mask is used: padding tokens
are ordinary tokens, as in the published models.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.config.architecture import TextEncoderConfig
from cogworks.nn.products import linear


class RMSNorm(nn.Module):
    """Divide by the root mean square, in float32; the result has the dtype of the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)


class Linear(nn.Linear):
    """Without bias. Weights kept in a narrower dtype than the input's are widened for the product, which is exact."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Unscaled attention with an additive relative-position bias; no linear has a bias."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_width
        self.num_heads = config.num_heads
        self.q = Linear(config.width, inner)
        self.k = Linear(config.width, inner)
        self.v = Linear(config.width, inner)
        self.out = Linear(inner, config.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, N, D), (1, H, N, N) -> (B, N, D)
        q, k, v = (linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # (B, H, N, d)
        return self.out(heads.transpose(1, 2).flatten(2))


class GatedFeedForward(nn.Module):
    """down(gelu(gate(x)) * up(x)), in float32 where the weights of `down` are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.down(hidden.to(torch.promote_types(hidden.dtype, self.down.weight.dtype)))


class EncoderBlock(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.norm2 = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedFeedForward(config.width, config.mlp_width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = _finite(x + self.attention(self.norm1(x), bias))
        return _finite(x + self.mlp(self.norm2(x)))


class TextEncoder(nn.Module):
    """Token ids (B, N) -> text embedding (B, N, D)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.relative_bias = nn.Embedding(config.relative_buckets, config.num_heads)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.norm_out = RMSNorm(config.width, config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        buckets = relative_buckets(ids.shape[1], self.config.relative_buckets, self.config.relative_max_distance)
        bias = self.relative_bias(buckets.to(ids.device)).permute(2, 0, 1)[None]  # (1, H, N, N)
        for block in self.blocks:
            x = block(x, bias.to(self.relative_bias.weight.dtype))
        return self.norm_out(x)

    def cast(self, dtype: torch.dtype) -> Self:
        """Cast the weights in place. In float16 the `down` linears stay float32: the published T5 overflows else."""
        mlps = [module for module in self.modules() if isinstance(module, GatedFeedForward)]
        kept = [mlp.down for mlp in mlps] if dtype == torch.float16 else []
        for module in self.modules():
            if next(module.children(), None) is None:
                module.to(torch.float32 if module in kept else dtype)  # never by way of float16, which would round
        return self

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Weights for training from nothing (T5's own initialisation)."""
        self.embed.weight.normal_(generator=generator)
        self.relative_bias.weight.normal_(std=self.config.width**-0.5, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5, generator=generator)
        for module in self.modules():
            if isinstance(module, Attention):  # attention is unscaled: the scale sits in q
                module.q.weight.mul_(self.config.head_width**-0.5)


def relative_buckets(num_tokens: int, num_buckets: int, max_distance: int) -> Tensor:
    """(N, N) bucket of (key position - query position): half of the buckets for each direction.

    In each direction half of the buckets count exactly, the others grow logarithmically up to `max_distance`.
    """
    half = num_buckets // 2
    exact = half // 2
    positions = torch.arange(num_tokens)
    offset = positions[None, :] - positions[:, None]
    distance = offset.abs()
    logarithmic = (
        exact
        + (torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)).long()
    )
    bucket = torch.where(distance < exact, distance, logarithmic.clamp(max=half - 1))
    return bucket + (offset > 0) * half


def _finite(x: Tensor) -> Tensor:
    """Clamp infinities of float16, as the reference does; every other dtype passes."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(torch.float16).max
    return x.clamp(min=-limit, max=limit) if not torch.isinf(x).any() else x.clamp(-limit + 1000, limit - 1000)
