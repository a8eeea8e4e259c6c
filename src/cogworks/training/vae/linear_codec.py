"""A closed-form video codec in the shape of the VAE's latents.

The first frame is cut into 8x8 blocks and the others into 4x8x8 blocks; each kind is projected on its principal
components. A network that starts by regressing these latents learns in minutes what joint training of encoder and
decoder needs hours for (docs/bundled-models.md has the figures), and the latent space is known before any network
is trained, so that VAE and transformer can be trained at the same time.

Letters: B batch, C latent channels, T frames, H W pixels, t h w latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

# Loud components are turned down so that the transformer sees similar amplitudes: 0 keeps them, 1 equalises them.
WHITENING = 0.6


class LinearCodec:
    """Principal components of blocks: `first` (8x8x3) and `rest` (4x8x8x3), each a mean, a basis and gains."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def fit(cls, pixels: Tensor, channels: int) -> Self:
        """Find the components of pixels (B, 3, 4k+1, H, W) in [-1, 1]."""
        tensors: dict[str, Tensor] = {}
        for kind, blocks in zip(("first", "rest"), _blocks(pixels), strict=True):
            rows = blocks.flatten(0, -2)
            mean = rows.mean(0)
            centred = rows - mean
            values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(rows))
            std = values[-channels:].flip(0).clamp(min=1e-8).sqrt()
            basis = vectors[:, -channels:].flip(1).T
            gain = std**-WHITENING
            gain = gain / (std * gain).square().mean().sqrt()
            tensors |= {f"{kind}.mean": mean.float(), f"{kind}.basis": basis.float().contiguous()}
            tensors |= {f"{kind}.gain": gain.float()}
        return cls(tensors)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, 4k+1, H, W) in [-1, 1] -> (B, C, k+1, H/8, W/8)"""
        tensors = {name: tensor.to(pixels.device) for name, tensor in self.tensors.items()}
        latents = [
            (blocks - tensors[f"{kind}.mean"]) @ tensors[f"{kind}.basis"].T * tensors[f"{kind}.gain"]
            for kind, blocks in zip(("first", "rest"), _blocks(pixels), strict=True)
        ]
        return rearrange(torch.cat(latents, dim=1), "b t h w c -> b c t h w")

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, k+1, h, w) -> (B, 3, 4k+1, 8h, 8w)"""
        parts = []
        for kind, z, frames in (("first", latents[:, :, :1], 1), ("rest", latents[:, :, 1:], 4)):
            rows = rearrange(z, "b c t h w -> b t h w c") / self.tensors[f"{kind}.gain"]
            blocks = rows @ self.tensors[f"{kind}.basis"] + self.tensors[f"{kind}.mean"]
            parts.append(rearrange(blocks, "b t h w (c f p q) -> b c (t f) (h p) (w q)", c=3, f=frames, p=8, q=8))
        return torch.cat(parts, dim=2)

    def save(self, path: Path) -> None:
        save_file(self.tensors, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(load_file(path))


def _blocks(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """First frame and others as blocks: (B, 1, h, w, 192) and (B, k, h, w, 768)."""
    first = rearrange(pixels[:, :, :1], "b c t (h p) (w q) -> b t h w (c p q)", p=8, q=8)
    rest = rearrange(pixels[:, :, 1:], "b c (t f) (h p) (w q) -> b t h w (c f p q)", f=4, p=8, q=8)
    return first, rest
