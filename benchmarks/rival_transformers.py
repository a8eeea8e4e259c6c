"""A transformer, and one block of it, on both sides: diffusers', and ours with its weights.

Letters: B batch, C T H W latent channels, frames, rows, columns, M text tokens, N video tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rival_weights import drawing, load_ours, of_dtype, perturb, silence
from torch import Tensor, nn

from cogworks.config.architecture import TransformerConfig
from cogworks.models.transformer import Transformer
from cogworks.weights.configs import write_transformer
from cogworks.weights.load import load_transformer, load_variant
from cogworks.weights.mapping import convert, lazy_state
from cogworks.weights.maps.diffusers import transformer_rules
from cogworks.weights.source import resolve

OFS = 2.0  # the second input of 1.5-I2V, in all published use


@dataclass(frozen=True)
class TransformerPair:
    """One transformer on both sides."""

    ours: Transformer
    theirs: Any

    @property
    def config(self) -> TransformerConfig:
        return self.ours.config


@dataclass(frozen=True)
class TransformerInputs:
    """What a pass is given, in our layout.

    Attributes:
        latents: (B, C, T, H, W).
        timesteps: (B,).
        text_emb: (B, M, text width).
    """

    latents: Tensor
    timesteps: Tensor
    text_emb: Tensor

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"latents": tuple(self.latents.shape), "text_emb": tuple(self.text_emb.shape)}


def transformer_pair(
    config: TransformerConfig, seed: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> TransformerPair:
    """Random weights, made on `device`."""
    from diffusers import CogVideoXTransformer3DModel

    silence()
    with drawing(seed), torch.device(device), of_dtype(dtype):
        theirs = CogVideoXTransformer3DModel.from_config(write_transformer(config)).to(dtype).eval()
        perturb(theirs)
        ours = Transformer(config).to(dtype).eval()
    load_ours(ours, theirs, transformer_rules(config))
    return TransformerPair(ours, theirs)


def tiny_transformers(model: str | Path = "tiny") -> TransformerPair:
    """Those of the bundled model, each read by its own library."""
    from diffusers import CogVideoXTransformer3DModel

    silence()
    folder = resolve(model)
    ours = load_transformer(folder, load_variant(folder), dtype=torch.float32)
    theirs = CogVideoXTransformer3DModel.from_pretrained(folder.path / "transformer").float().eval()
    return TransformerPair(ours, theirs)


def transformer_inputs(
    config: TransformerConfig,
    size: tuple[int, int, int],
    *,
    batch: int,
    seed: int,
    text_tokens: int | None = None,
    same_latents: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TransformerInputs:
    """Random inputs.

    Args:
        size: (T, H, W) of the latents.
        text_tokens: M; by default that of the model.
        same_latents: as guidance has it: every row of the batch holds the same latents at the same time.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = 1 if same_latents else batch
    latents = torch.randn(rows, config.in_channels, *size, generator=generator)
    text_emb = torch.randn(batch, text_tokens or config.text_tokens, config.text_width, generator=generator)
    timesteps = torch.randint(1, 1000, (rows,), generator=generator)
    return TransformerInputs(
        latents.expand(batch, -1, -1, -1, -1).to(device, dtype, copy=True, memory_format=torch.contiguous_format),
        timesteps.expand(batch).contiguous().to(device),
        text_emb.to(device, dtype),
    )


def run_ours(network: Transformer, inputs: TransformerInputs) -> Tensor:
    """Their prediction (B, C, T, H, W)."""
    ofs = None if network.ofs_embed is None else torch.full_like(inputs.timesteps, OFS, dtype=inputs.latents.dtype)
    return network(inputs.latents, inputs.timesteps, inputs.text_emb, ofs)


def prepared_step(pair: TransformerPair, inputs: TransformerInputs) -> Callable[[], Tensor]:
    """A pass of ours as a guided run makes it; the rows of `inputs` differ in their texts alone.

    Modulation of all timesteps and projected texts are there before; the latents that both rows share are given once.
    """
    network = pair.ours
    steps = torch.linspace(999, 1, 25).round().long()
    steps[12] = inputs.timesteps[0]
    table = network.modulation_table(steps)
    text_tokens = network.patch_embed.text_proj(inputs.text_emb)
    latents = inputs.latents[:1]

    def predict() -> Tensor:
        with torch.inference_mode():  # as runs do; diffusers' go without gradients alone
            return network.predict(latents, text_tokens, table.row(12))

    return predict


def runner_of_theirs(network: Any, inputs: TransformerInputs, stride: int = 8) -> Callable[[], Tensor]:
    """A call of theirs: (B, T, C, H, W). Layout and rotary table are made here, once, as their pipeline does.

    Args:
        network: as it is now; pass what `torch.compile` returned to run that.
        stride: pixels to a latent, by which their pipeline measures.
    """
    from diffusers import CogVideoXPipeline

    rope = None
    if network.config.use_rotary_positional_embeddings:
        frames, rows, columns = inputs.latents.shape[2:]
        pipeline = SimpleNamespace(transformer=network, vae_scale_factor_spatial=stride)
        rope = CogVideoXPipeline._prepare_rotary_positional_embeddings(
            pipeline, rows * stride, columns * stride, frames, inputs.latents.device
        )
    ofs = None if network.config.ofs_embed_dim is None else inputs.latents.new_full((1,), OFS)
    given = {
        "hidden_states": inputs.latents.transpose(1, 2).contiguous(),
        "encoder_hidden_states": inputs.text_emb,
        "timestep": inputs.timesteps,
        "ofs": ofs,
        "image_rotary_emb": rope,
        "return_dict": False,
    }
    return lambda: network(**given)[0]


def gradients_of_theirs(pair: TransformerPair) -> dict[str, Tensor]:
    """The gradients of their parameters, by the names of ours."""
    given = {name: parameter.grad for name, parameter in pair.theirs.named_parameters() if parameter.grad is not None}
    state = convert(lazy_state(given), transformer_rules(pair.config), origin="gradients of diffusers")
    return {name: tensor.read() for name, tensor in state.items()}


# ---- one block


@dataclass(frozen=True)
class BlockCalls:
    """One block on both sides, called with what a whole pass gave it; both return (B, M + N, D)."""

    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]


def block_calls(pair: TransformerPair, inputs: TransformerInputs) -> BlockCalls:
    """The first block of a pair.

    Tokens are copied before each call on both sides: a block may work in place. The rows of the modulation are made
    inside diffusers' block and outside ours; at the published widths that is less than a three-hundredth of the work.
    """
    block, _, options = _seen_by(pair.theirs.transformer_blocks[0], runner_of_theirs(pair.theirs, inputs))

    def theirs() -> Tensor:
        streams = {name: options[name].clone() for name in ("hidden_states", "encoder_hidden_states")}
        video, text = block(**{**options, **streams})
        return torch.cat([text, video], dim=1)

    return BlockCalls(block_call_of_ours(pair.ours, inputs), theirs)


def block_call_of_ours(network: Transformer, inputs: TransformerInputs) -> Callable[[], Tensor]:
    """The first block alone, as `block_calls`."""
    block, given, options = _seen_by(network.blocks[0], partial(run_ours, network, inputs))
    return lambda: block(given[0].clone(), *given[1:], **options)


class _Seen(Exception):  # noqa: N818
    """Ends a pass once its first block has been called."""


def _seen_by(block: nn.Module, run: Callable[[], Any]) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The arguments that a pass gives a block."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        seen.append((arguments, options))
        raise _Seen

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run()
    except _Seen:
        pass
    finally:
        handle.remove()
    return block, *seen[0]
