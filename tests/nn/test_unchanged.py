"""What counts as a change of weights that something was computed from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cogworks.config.variants import TINY
from cogworks.extensions.attach import attach
from cogworks.extensions.lora import LoRA
from cogworks.models.transformer import Transformer
from cogworks.nn.unchanged import Seen


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_nothing_happened() -> None:
    model = network()
    seen = Seen([model])
    with torch.no_grad():
        model[0](torch.randn(2, 3))
    assert seen.unchanged([model])


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model[0].weight.detach().mul_(2),
        lambda model: model[1].running_mean.fill_(1),
        lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
        lambda model: model.to(torch.float64),
        lambda model: model.append(nn.Linear(4, 4)),
        lambda model: model.__setitem__(0, nn.Linear(3, 4)),
        lambda model: model.load_state_dict(network().state_dict()),
    ],
    ids=["written", "buffer", "replaced", "cast", "more", "another module", "loaded"],
)
def test_changes(change: object) -> None:
    model = network()
    seen = Seen([model])
    change(model)
    assert not seen.unchanged([model])


def test_a_lora_that_comes_changes_and_goes() -> None:
    config = TINY.transformer
    model = Transformer(config)
    seen = Seen(model.preparing)
    attachment = attach(model, LoRA(rank=2, targets=("modulations.*",)))
    assert not seen.unchanged(model.preparing)
    attached = Seen(model.preparing)
    model.modulations[0].set_scale(0.5)
    assert not attached.unchanged(model.preparing)
    attachment.detach()
    assert seen.unchanged(model.preparing)


def test_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        model = network()
    assert Seen([model]).unchanged([model])
