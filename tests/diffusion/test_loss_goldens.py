"""Training losses and gradients of SAT (tests/golden/cogvideox_sat/README.md, loss_*).

Tolerances from the README: 5e-6 for losses and the norm of all gradients, 5e-7 for single gradients.
"""

import copy

import pytest
import torch
from torch import Tensor

from cogworks.config.architecture import ScheduleConfig
from cogworks.diffusion.loss import diffusion_loss
from cogworks.diffusion.prediction import add_noise
from cogworks.diffusion.schedule import NoiseSchedule
from cogworks.models.transformer import Transformer
from helpers.golden_weights import load_golden, load_golden_transformer, our_name

CASES = [
    ("t2v_sincos", 3),
    ("t2v_rope", 1),
    ("i2v_rope_learned", 1),
    ("i2v15_rope_slice_ofs", 1),
]
FILES = {"i2v15_rope_slice_ofs": "i2v15"}


def load_io(network: str, shift: int) -> dict[str, Tensor]:
    io = load_golden(f"loss_{FILES.get(network, network)}_shift{shift}")
    return {key: value.transpose(1, 2) if value.ndim == 5 and key[:3] == "in." else value for key, value in io.items()}


def loss_of(network: Transformer, io: dict[str, Tensor], alpha: Tensor, sigma: Tensor) -> Tensor:
    x_t = add_noise(io["in.x0"], io["in.noise"], alpha, sigma)
    inputs = torch.cat([x_t, io["in.concat"]], dim=1) if "in.concat" in io else x_t
    ofs = io["in.ofs"].expand(2) if "in.ofs" in io else None
    v = network(inputs, io["in.idx"], io["in.context"], ofs=ofs)
    return diffusion_loss(v, io["in.x0"], io["in.noise"], alpha, sigma)


@pytest.mark.parametrize(("name", "shift"), CASES)
def test_loss_and_gradients_reproduce_sat(name: str, shift: int) -> None:
    network = copy.deepcopy(load_golden_transformer(name))
    io = load_io(name, shift)
    alpha, sigma = NoiseSchedule(ScheduleConfig(snr_shift=shift)).levels(io["in.idx"])
    torch.testing.assert_close(alpha.float(), io["out.sqrt_alpha"], rtol=0, atol=1e-6)

    losses = loss_of(network, io, alpha, sigma)
    losses.mean().backward()
    torch.testing.assert_close(losses.detach(), io["out.loss_per_sample"], rtol=0, atol=5e-6)

    gradients = {key: parameter.grad for key, parameter in network.named_parameters() if parameter.grad is not None}
    golden = {key.removeprefix("grad."): value for key, value in io.items() if key.startswith("grad.")}
    assert golden
    for key, value in golden.items():
        gradient = gradients[our_name(key)]
        torch.testing.assert_close(gradient.reshape(value.shape), value, rtol=0, atol=5e-7)
    norm = torch.stack([g.double().norm() for g in gradients.values()]).norm()
    torch.testing.assert_close(norm, io["grad_norm_total"].squeeze(), rtol=0, atol=5e-6)


@pytest.mark.parametrize(("name", "shift"), CASES)
def test_wrong_shift_would_be_noticed(name: str, shift: int) -> None:
    io = load_io(name, shift)
    wrong = NoiseSchedule(ScheduleConfig(snr_shift=4 - shift))
    with torch.no_grad():
        losses = loss_of(load_golden_transformer(name), io, *wrong.levels(io["in.idx"]))
    assert (losses - io["out.loss_per_sample"]).abs().max() > 5e-5


def test_detour_through_x0_loses_digits_at_low_noise() -> None:
    """Why the loss compares v: the weighted x_0 error of the same prediction misses the golden by three tolerances."""
    io = load_io("t2v_sincos", 3)
    alpha, sigma = (level.float() for level in NoiseSchedule(ScheduleConfig(snr_shift=3.0)).levels(io["in.idx"]))
    a, s = alpha.view(-1, 1, 1, 1, 1), sigma.view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        x_t = a * io["in.x0"] + s * io["in.noise"]
        v = load_golden_transformer("t2v_sincos")(x_t, io["in.idx"], io["in.context"])
    x0 = a * x_t - s * v
    detour = ((x0 - io["in.x0"]) ** 2 / (1 - a**2)).mean((1, 2, 3, 4))
    assert (detour - io["out.loss_per_sample"]).abs().max() > 1e-5
