"""The 3D causal VAE: pixels to latents and back.

Letters: B batch, T frames, t latent frames, H W pixels, h w latents, C latent channels.
Source: arXiv:2408.06072, section 2.1 and its appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from cogworks.config.architecture import VAEConfig
from cogworks.errors import RequestError
from cogworks.models.vae_blocks import DecoderBlock, Downsample, EncoderBlock, Upsample
from cogworks.models.vae_frames import DecodeRule, EncodeRule, check_encodable, decode_chunks, encode_chunks
from cogworks.models.vae_posterior import Posterior
from cogworks.nn.causal_conv import CausalConv3d
from cogworks.nn.norm import GroupNorm, SpatialNorm
from cogworks.nn.onednn_conv import to_native_layout
from cogworks.nn.time_context import Start, Stream, TimeContext, Waiting


class EncoderLevel(nn.Module):
    """Residual blocks of one width, then the way down to the next level.

    Called one by one: a forward pass of the level would leave its input with the caller until the last block is done.
    """

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        width, before = config.widths[level], config.widths[max(level - 1, 0)]
        self.blocks = nn.ModuleList(
            EncoderBlock(before if j == 0 else width, width, config.norm_groups, config.norm_eps)
            for j in range(config.layers_per_block)
        )
        last = level == len(config.widths) - 1
        self.downsample = None if last else Downsample(width, in_time=2**level < config.temporal_stride)


class Encoder(nn.Module):
    """Pixels to the moments of the posterior: mean and log-variance, stacked on channels."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        top = config.widths[-1]
        self.temporal_stride, self.spatial_stride = config.temporal_stride, config.spatial_stride
        self.conv_in = CausalConv3d(config.image_channels, config.widths[0])
        self.levels = nn.ModuleList(EncoderLevel(config, level) for level in range(len(config.widths)))
        self.middle = nn.ModuleList(EncoderBlock(top, top, config.norm_groups, config.norm_eps) for _ in range(2))
        self.norm_out = GroupNorm(config.norm_groups, top, config.norm_eps)
        self.conv_out = CausalConv3d(top, 2 * config.latent_channels)

    def forward(self, pixels: Tensor, context: TimeContext) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, 2C, t, h, w)."""
        frames, height, width = pixels.shape[2:]
        lead = context.lead_frames(frames)
        check_encodable(frames, lead, self.temporal_stride)
        if height % self.spatial_stride or width % self.spatial_stride:
            raise RequestError(
                f"height and width must be multiples of {self.spatial_stride}, got {height}x{width}; resize or crop"
            )
        x = self.conv_in(to_native_layout(pixels), context)
        for level in self.levels:
            assert isinstance(level, EncoderLevel)
            for block in level.blocks:
                x = block(x, context)
            if level.downsample is not None:
                x = level.downsample(x, context, lead)
        for block in self.middle:
            x = block(x, context)
        return self.conv_out.of_normed(self.norm_out, x, context).contiguous()


class DecoderLevel(nn.Module):
    """Residual blocks of one width, then the way up to the next level; level 0 is the smallest picture.

    Called one by one, as those of an encoder's level.
    """

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        width, before = widths[level], widths[max(level - 1, 0)]
        self.blocks = nn.ModuleList(
            DecoderBlock(
                before if j == 0 else width, width, config.latent_channels, config.norm_groups, config.norm_eps
            )
            for j in range(config.layers_per_block + 1)
        )
        last = level == len(widths) - 1
        self.upsample = None if last else Upsample(width, in_time=2**level < config.temporal_stride)


class Decoder(nn.Module):
    """Latents to pixels. Every norm sees the latents again."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        top, channels = config.widths[-1], config.latent_channels
        self.conv_in = CausalConv3d(channels, top)
        self.middle = nn.ModuleList(
            DecoderBlock(top, top, channels, config.norm_groups, config.norm_eps) for _ in range(2)
        )
        self.levels = nn.ModuleList(DecoderLevel(config, level) for level in range(len(config.widths)))
        self.norm_out = SpatialNorm(config.widths[0], channels, config.norm_groups, config.norm_eps)
        self.conv_out = CausalConv3d(config.widths[0], config.image_channels)

    def forward(self, latents: Tensor, context: TimeContext) -> Tensor:
        """(B, C, t, h, w) -> (B, 3, T, H, W), not clamped."""
        lead = context.lead_frames(latents.shape[2])
        latents = to_native_layout(latents)
        x = self.conv_in(latents, context)
        for block in self.middle:
            x = block(x, context, latents, lead)
        for level in self.levels:
            assert isinstance(level, DecoderLevel)
            for block in level.blocks:
                x = block(x, context, latents, lead)
            if level.upsample is not None:
                x = level.upsample(x, context, lead)
        return self.conv_out.of_normed(self.norm_out, x, context, latents, lead).contiguous()


class VAE(nn.Module):
    """Encoder and decoder, and the rules by which a clip passes through them.

    `encoder` and `decoder` take a time context and are what training calls; with `Start()` gradients flow. The methods
    below cut clips into pieces. Wherever there are several pieces they carry frames from one to the next, which works
    without gradients only: call them under `torch.no_grad()`.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pixels: Tensor, rule: EncodeRule = "chunked") -> Posterior:
        """The distribution of the latents of a clip or image.

        Args:
            pixels: (B, 3, T, H, W) in [-1, 1]; T is 1, 4k or 4k + 1, H and W are multiples of 8.
            rule: "chunked" gives what diffusers gives, "whole" what SAT trained with.

        Returns:
            Posterior over (B, C, t, H / 8, W / 8): t = k + 1 for T = 4k + 1, k for T = 4k.

        Raises:
            RequestError: a number of frames or a size the network does not take.
        """
        return Posterior.from_moments(self.moments(pixels, rule))

    def moments(self, pixels: Tensor, rule: EncodeRule = "chunked") -> Tensor:
        """What `encode` makes its posterior from: (B, 2C, t, h, w), means then log-variances, not clamped."""
        sizes = encode_chunks(pixels.shape[2], rule, self.config.temporal_stride)
        if len(sizes) == 1:
            return self.encoder(pixels, Start())
        return torch.cat(list(self.encode_stream(pixels.split(sizes, dim=2))), dim=2)

    def encode_stream(
        self, chunks: Iterable[Tensor], *, strips: int = 1, waiting: Callable[[], Waiting] = dict
    ) -> Iterator[Tensor]:
        """Moments (B, 2C, t, h, w) of each piece of a clip of any length, as the pieces arrive.

        Args:
            chunks: (B, 3, T, H, W) each, consecutive; the first of 1, 4k or 4k + 1 frames, the others of 4k. Pieces
                cut by `encode_chunks` give what `encode` gives.
            strips: in how many strips of rows each layer works, to need less memory.
            waiting: makes the place where frames wait between two pieces.
        """
        context = Stream(strips=strips, waiting=waiting())
        for chunk in chunks:
            yield self.encoder(chunk, context)

    def decode(self, latents: Tensor, rule: DecodeRule = "chunked") -> Tensor:
        """The clip of the given latents.

        Args:
            latents: (B, C, t, h, w), as the encoder gives them (see `from_diffusion`).
            rule: "chunked" gives what diffusers and SAT 1.0 give, "sat15" what SAT 1.5 gives: the first latent
                frame is dropped and every other becomes four frames.

        Returns:
            (B, 3, T, 8h, 8w), nominally in [-1, 1], not clamped; T = 4(t - 1) + 1 for odd t, 4t for even t,
            4(t - 1) with "sat15". So clips of 8k or 8k + 1 frames come back with as many.

        Raises:
            RequestError: too few latent frames.
        """
        return torch.cat(list(self.decode_stream(latents, rule)), dim=2)

    def decode_stream(
        self,
        latents: Tensor,
        rule: DecodeRule = "chunked",
        *,
        strips: int = 1,
        waiting: Callable[[], Waiting] = dict,
    ) -> Iterator[Tensor]:
        """Consecutive pieces (B, 3, T, H, W) of the clip that `decode` gives.

        What is held between two pieces does not grow with the length of the clip.

        Args:
            latents, rule: as for `decode`.
            strips, waiting: as for `encode_stream`.
        """
        if rule == "sat15":
            latents = latents[:, :, 1:]
        sizes = decode_chunks(latents.shape[2], rule)
        apart = rule != "sat15"
        context: TimeContext
        if len(sizes) == 1:
            context = Start(first_frame_apart=apart, strips=strips)
        else:
            context = Stream(first_frame_apart=apart, strips=strips, waiting=waiting())
        for chunk in latents.split(sizes, dim=2):
            yield self.decoder(chunk, context)

    def to_diffusion(self, latents: Tensor) -> Tensor:
        """Latents of the encoder -> latents of the diffusion process."""
        return latents * self.config.scaling_factor

    def from_diffusion(self, latents: Tensor) -> Tensor:
        """Latents of the diffusion process -> latents for the decoder."""
        return latents / self.config.scaling_factor

    def image_condition(self, latents: Tensor) -> Tensor:
        """Latents of the encoder -> the image condition of an image-to-video model.

        Reference quirk: 1.5-I2V divides by the scaling factor where every other model multiplies
        (docs/parity.md#invert_scale_latents).
        """
        return self.from_diffusion(latents) if self.config.invert_scale_latents else self.to_diffusion(latents)
