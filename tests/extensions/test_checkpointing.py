"""Activation checkpointing: the same gradients in less memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.autograd.graph import saved_tensors_hooks

from cogworks.config.variants import TINY
from cogworks.extensions.attach import attach
from cogworks.extensions.checkpointing import ActivationCheckpointing
from cogworks.extensions.lora import LoRA, lora_parameters
from cogworks.models.transformer import Transformer

CONFIG = replace(TINY.transformer, num_layers=3, num_heads=2, text_width=16, text_tokens=5, time_width=16)


def gradients(*, checkpointed: bool) -> tuple[list[torch.Tensor], int]:
    """Gradients of a LoRA with dropout, and the bytes that the forward pass saved outside of blocks."""
    torch.manual_seed(0)
    model = Transformer(CONFIG).train()
    attach(model, LoRA(rank=2, dropout=0.3))
    for parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    if checkpointed:
        attach(model, ActivationCheckpointing())
    latents, text = torch.randn(2, CONFIG.in_channels, 2, 8, 8), torch.randn(2, 5, 16)
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(latents, torch.tensor([3, 700]), text).square().mean()
    kept = sum(saved.values())
    loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], kept


def test_gradients_are_bitwise_the_same_and_less_is_kept() -> None:
    plain, kept_plain = gradients(checkpointed=False)
    again, kept_again = gradients(checkpointed=True)
    assert len(plain) == len(again) > 20
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert kept_again < 0.6 * kept_plain
