"""Architecture: frozen dataclasses that say what a network is, without torch.

Letters: D token width, E conditioning width, C latent channels.
Source: the published `config.json` files of CogVideoX (`weights/configs.py` reads and writes their names).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rope = Literal["none", "crop", "slice"]
PositionTable = Literal["none", "sincos", "learned"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The expert transformer.

    Attributes:
        patch_size: (t, h, w) latents per video token.
        in_channels: latent channels in; twice `out_channels` where an image is concatenated.
        text_width: width of the text encoder's output.
        text_tokens: length of every encoded prompt, padding included.
        time_width: E, the width of the conditioning vector.
        rope: how 3D rotary positions are laid out: not at all, cropped from the sample grid (1.0), or
            counted from zero (1.5).
        position_table: what is added to the tokens: nothing, the fixed 3D sin-cos table (2B) or a learned
            one (5B-I2V).
        ofs_width: width of the second sinusoidal input of 1.5-I2V, whose meaning is not documented upstream.
        sample_size: (latent height, latent width) of training; base of the crop rule and size of a learned table.
        sample_frames: pixel frames of training; size of a learned table.
        norm_out_eps: epsilon of the last norm: 1e-5 in diffusers, 1e-6 in SAT.
    """

    num_layers: int
    num_heads: int
    head_width: int
    in_channels: int
    out_channels: int
    patch_size: tuple[int, int, int]
    text_width: int
    text_tokens: int
    time_width: int
    rope: Rope
    position_table: PositionTable
    ofs_width: int | None
    sample_size: tuple[int, int]
    sample_frames: int
    temporal_stride: int = 4
    spatial_interpolation: float = 1.875
    temporal_interpolation: float = 1.0
    norm_eps: float = 1e-5
    qk_norm_eps: float = 1e-6
    norm_out_eps: float = 1e-5
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _require(self.head_width % 8 == 0, f"head_width must be a multiple of 8, got {self.head_width}")
        _require(
            self.in_channels in (self.out_channels, 2 * self.out_channels),
            f"in_channels must be {self.out_channels} or {2 * self.out_channels}, got {self.in_channels}",
        )

    @property
    def width(self) -> int:
        return self.num_heads * self.head_width

    @property
    def takes_image(self) -> bool:
        """True where the conditioning latents are concatenated on channels (image to video)."""
        return self.in_channels == 2 * self.out_channels

    @property
    def sample_grid(self) -> tuple[int, int]:
        """(rows, columns) of video tokens at the training size."""
        return self.sample_size[0] // self.patch_size[1], self.sample_size[1] // self.patch_size[2]

    @property
    def sample_latent_frames(self) -> int:
        return (self.sample_frames - 1) // self.temporal_stride + 1


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The 3D causal VAE, 4x in time and 8x in space for four widths.

    Attributes:
        widths: channels of each level, from pixels to latents.
        layers_per_block: residual blocks per encoder level; decoder levels have one more.
        scaling_factor: diffusion latents are VAE latents times this.
        invert_scale_latents: divide instead of multiply, for the image condition of 1.5-I2V only.
        sample_size: (height, width) in pixels; a tile is half of it in each direction.
    """

    widths: tuple[int, ...]
    latent_channels: int
    layers_per_block: int
    norm_groups: int
    scaling_factor: float
    invert_scale_latents: bool
    sample_size: tuple[int, int]
    image_channels: int = 3
    norm_eps: float = 1e-6
    temporal_stride: int = 4

    def __post_init__(self) -> None:
        for width in self.widths:
            _require(width % self.norm_groups == 0, f"width {width} is not divisible by norm_groups {self.norm_groups}")
        _require(
            self.temporal_stride in (1, 2, 4, 8) and self.temporal_stride <= self.spatial_stride,
            f"temporal_stride must be a power of two up to {self.spatial_stride}, got {self.temporal_stride}",
        )

    @property
    def spatial_stride(self) -> int:
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """A T5 v1.1 encoder: gated tanh-GELU feed-forward, relative position bias shared by all layers."""

    vocab_size: int
    width: int
    head_width: int
    num_heads: int
    num_layers: int
    mlp_width: int
    relative_buckets: int = 32
    relative_max_distance: int = 128
    norm_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The noise schedule: scaled-linear betas, SNR shift, zero terminal SNR, v-prediction."""

    snr_shift: float
    num_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: Literal["v", "eps", "x0"] = "v"
    zero_terminal_snr: bool = True
    spacing: Literal["trailing", "leading", "linspace", "sat"] = "trailing"


@dataclass(frozen=True, kw_only=True)
class EDM:
    """What an EDM network takes and predicts: noisy data scaled to unit variance, and a mix of data and noise.

    Attributes:
        sigma_data: standard deviation that the data are taken to have.

    Source: arXiv:2206.00364, table 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _require(self.sigma_data > 0, f"sigma_data must be positive, got {self.sigma_data}")


@dataclass(frozen=True, kw_only=True)
class EDMScheduleConfig:
    """The noise levels of an EDM network: not a table, but every standard deviation of the noise there is.

    Attributes:
        sigma_min, sigma_max: where a walk ends, before it removes all noise, and begins; the noise's standard deviation
            beside unscaled data.
        rho: how a walk is spaced; larger takes more of its steps at low noise.
    """

    prediction: EDM = EDM()
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _require(
            0 < self.sigma_min < self.sigma_max,
            f"sigma_min must lie between 0 and sigma_max, got {self.sigma_min} and {self.sigma_max}",
        )
        _require(self.rho > 0, f"rho must be positive, got {self.rho}")
