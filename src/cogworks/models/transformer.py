"""The CogVideoX expert transformer, in the order of its forward pass.

Letters: B batch, C T H W latent channels, frames, rows, columns, M text tokens, N all tokens, D width,
E conditioning width.
Source: CogVideoX, arXiv:2408.06072, section 2.2; the published models are rows of `config/variants.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cogworks.config.architecture import TransformerConfig
from cogworks.nn.blocks import Block, BlockRunner, Conditioning, LastBlock
from cogworks.nn.embeddings import (
    LearnedPositions,
    NoPositions,
    PatchEmbedding,
    SinCosPositions,
    SinusoidEmbedding,
    unpatchify,
)
from cogworks.nn.layout import Segment, StepInfo, TokenLayout
from cogworks.nn.linear import Linear, StackedLinear
from cogworks.nn.modulation import BlockModulationLinear, activate, block_modulation, with_gains
from cogworks.nn.rope import rope_table


class ModulationTable(NamedTuple):
    """Everything that depends on the timestep alone.

    Attributes:
        blocks: of each block the rows (B, 1, 12 D) that `block_modulation` names.
        out_shift, out_gain: of the last norm (B, 1, D).
    """

    blocks: list[Tensor]
    out_shift: Tensor
    out_gain: Tensor

    def row(self, index: int) -> ModulationTable:
        """That of one timestep of many, for a batch of any size."""
        row = slice(index, index + 1)
        return ModulationTable([rows[row] for rows in self.blocks], self.out_shift[row], self.out_gain[row])


class Transformer(nn.Module):
    """Predicts v for noisy latents, given the timestep and the text embedding.

    Seams, where an extension may take the place of a module: `blocks.*.attention.inner`, `runner`, any linear.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_embed = SinusoidEmbedding(width, config.time_width)
        self.ofs_embed = SinusoidEmbedding(config.ofs_width, config.time_width) if config.ofs_width else None
        self.modulations = nn.ModuleList(
            BlockModulationLinear(config.time_width, width) for _ in range(config.num_layers)
        )
        self.modulation_out = StackedLinear(config.time_width, width, ("shift", "scale"))
        self.patch_embed = PatchEmbedding(config.in_channels, config.patch_size, config.text_width, width)
        self.position_table = _position_table(config)
        self.runner = BlockRunner()
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers - 1)] + [LastBlock(config)])
        self.norm_final = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm_out = nn.LayerNorm(width, eps=config.norm_out_eps)
        self.proj_out = Linear(width, config.out_channels * math.prod(config.patch_size))

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text_emb: Tensor,
        ofs: Tensor | None = None,
        *,
        step: StepInfo | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            latents: (B, C, T, H, W) noisy latents, for image to video with the image latents after them on C.
            timesteps: (B,) in [0, 1000), 0 almost clean.
            text_emb: (B, M, text width).
            ofs: (B,) second input of 1.5-I2V, 2.0 in all published use; None for every other model.
            step: where in a sampling run this pass stands; only extensions of the runner read it.

        Returns:
            (B, out channels, T, H, W) in the dtype of the weights.
        """
        # Before the text: the backward pass goes the other way, and so lets go of the gradients of all tokens before it
        # makes those of the modulations.
        table = self.modulation_table(timesteps, ofs)
        return self.predict(latents, self.patch_embed.text_proj(text_emb), table, step=step)

    def predict(
        self, latents: Tensor, text_tokens: Tensor, table: ModulationTable, *, step: StepInfo | None = None
    ) -> Tensor:
        """Predict v from what is the same in many steps, and may be computed once for all of them.

        Args:
            latents: (B, C, T, H, W), as for `forward`.
            text_tokens: (k B, M, D), what `patch_embed.text_proj` makes of text embeddings; with k > 1 each k-th part
                meets all of the latents, which are embedded once.
            table: `modulation_table` of the timesteps, or one `row` of it.

        Returns:
            (k B, out channels, T, H, W) in the dtype of the weights.
        """
        layout = self.layout(latents, text_tokens)
        tokens = self.patch_embed(latents, text_tokens)  # (k B, M + N, D)
        tokens = self.position_table(tokens, layout)
        modulations = [block_modulation(rows) for rows in table.blocks]
        conditioning = Conditioning(modulations, rope_table(layout, self.config, tokens.device))
        tokens = self.runner(self.blocks, tokens, conditioning, layout, step)
        video = self.norm_final(tokens)[:, text_tokens.shape[1] :]  # (k B, N, D)
        video = torch.addcmul(table.out_shift, self.norm_out(video), table.out_gain)
        segment = layout.segments[0]
        return unpatchify(self.proj_out(video), (segment.frames, segment.rows, segment.columns), self.config.patch_size)

    @property
    def preparing(self) -> tuple[nn.Module, ...]:
        """The modules that `predict` does without: they see the prompt and the timestep alone."""
        modules = (self.time_embed, self.ofs_embed, self.modulations, self.modulation_out, self.patch_embed.text_proj)
        return tuple(module for module in modules if module is not None)

    def modulation_table(self, timesteps: Tensor, ofs: Tensor | None = None) -> ModulationTable:
        """The rows of all modulations for timesteps (B,)."""
        conditioning = self.time_embed(timesteps)
        if (ofs is None) != (self.ofs_embed is None):
            raise ValueError(f"ofs must {'not ' if self.ofs_embed is None else ''}be given to this model")
        if self.ofs_embed is not None:
            conditioning = conditioning + self.ofs_embed(ofs)
        activated = activate(conditioning)[:, None]  # (B, 1, E)
        shift, scale = self.modulation_out(activated).chunk(2, dim=-1)
        blocks = [with_gains(linear(activated)) for linear in self.modulations]
        return ModulationTable(blocks, shift, 1 + scale)

    def layout(self, latents: Tensor, text: Tensor) -> TokenLayout:
        """The layout of a batch. Raises ValueError if the latents do not divide into patches."""
        channels, *sizes = latents.shape[1:]
        if channels != self.config.in_channels:
            raise ValueError(f"expected {self.config.in_channels} latent channels, got {channels}")
        for name, size, patch in zip(("frames", "rows", "columns"), sizes, self.config.patch_size, strict=True):
            if size % patch:
                raise ValueError(f"latent {name} must be divisible by {patch}, got {size}")
        t, h, w = (size // patch for size, patch in zip(sizes, self.config.patch_size, strict=True))
        return TokenLayout((Segment(text.shape[1], t, h, w),))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Weights for training from nothing: small normal linears, every block open, output zero.

        Gates begin at one and modulation weights at zero, so that all samples begin with the same open network;
        the last linear is zero, so that the first prediction is.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5, generator=generator)
                module.bias.zero_()
            if isinstance(module, BlockModulationLinear):
                module.weight.zero_()
                for name in module.names:
                    module.bias[module.rows(name)] = float("gate" in name)
        self.modulation_out.weight.zero_()
        self.proj_out.weight.zero_()


def _position_table(config: TransformerConfig) -> nn.Module:
    match config.position_table:
        case "none":
            return NoPositions()
        case "sincos":
            return SinCosPositions(config.width, config.spatial_interpolation, config.temporal_interpolation)
        case "learned":
            rows, columns = config.sample_grid
            frames = math.ceil(config.sample_latent_frames / config.patch_size[0])
            return LearnedPositions(config.text_tokens + frames * rows * columns, config.width)
