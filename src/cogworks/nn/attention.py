"""Joint attention over text and video tokens, and the seam inside it.

Letters: B batch, H heads, N tokens, d head width, D = H d.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.nn.layout import TokenLayout
from cogworks.nn.linear import Linear, StackedLinear
from cogworks.nn.overwrite import may_overwrite
from cogworks.nn.rope import Rope, apply_rope


class InnerAttention(nn.Module):
    """Seam: softmax attention after q/k norm and rotation. No parameters, so that anything may take its place.

    Each segment attends to itself; with one segment that is plain full attention.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:  # 4 x (B, H, N, d)
        if len(layout.segments) == 1:
            return F.scaled_dot_product_attention(q, k, v)
        raise ValueError(f"{len(layout.segments)} packed segments need an attention that keeps them apart")


class JointAttention(nn.Module):
    """Full self-attention over the joint sequence, with a LayerNorm on the q and k of every head."""

    def __init__(self, num_heads: int, head_width: int, qk_norm_eps: float) -> None:
        super().__init__()
        width = num_heads * head_width
        self.num_heads = num_heads
        self.qkv = StackedLinear(width, width, ("q", "k", "v"))
        self.norm_q = nn.LayerNorm(head_width, eps=qk_norm_eps)
        self.norm_k = nn.LayerNorm(head_width, eps=qk_norm_eps)
        self.inner = InnerAttention()
        self.out = Linear(width, width)

    def forward(self, x: Tensor, rope: Rope | None, layout: TokenLayout, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): what the tokens from `first` on gather from all."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # 3 x (B, N, H, d)
        q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, N, d)
        if rope is not None:
            q = apply_rope(q, rope, layout, overwrite=may_overwrite(self.norm_q))
            k = apply_rope(k, rope, layout, overwrite=may_overwrite(self.norm_k))
        if first and type(self.inner) is InnerAttention:  # anything else may count on as many queries as keys
            attended = self.inner(q[:, :, first:], k, v, layout)
        else:
            attended = self.inner(q, k, v, layout)[:, :, first:]  # (B, H, N - first, d)
        return self.out(attended.transpose(1, 2).flatten(2))
