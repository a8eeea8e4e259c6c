"""Plans of training runs: what follows from a recipe, whatever the machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.config.recipe import Recipe, parse_recipe
from cogworks.config.variants import COGVIDEOX_5B, TINY
from cogworks.errors import CogworksError
from cogworks.training.planning.dry_run import dry_run
from cogworks.training.planning.networks import empty_module
from cogworks.training.planning.plan import TrainingPlan, plan_training
from cogworks.training.run import prepare_run

GPU = torch.device("cuda")  # not here, so that no plan waits for a calibration
BUDGET = 80 * 10**9


def recipe(**values: Any) -> Recipe:
    complete = {
        "version": 1,
        "kind": "transformer",
        "model": "tiny",
        "output": "never-made",
        "steps": 10,
        "batch_size": 4,
        "threads": 1,
        "optimizer": {"learning_rate": 0.001},
        "data": {"kind": "shapes", "size": 32, "frames": 9},
        **values,
    }
    return parse_recipe(complete, "test")


def plan(**values: Any) -> TrainingPlan:
    return plan_training(recipe(**values), GPU, budget=BUDGET)


def test_what_is_held_follows_from_what_is_trained() -> None:
    full = plan(average={"decay": 0.9})
    assert full.gradients == full.average == 4 * full.trained
    assert full.optimizer == 2 * full.gradients
    assert full.weights == 4 * full.parameters
    lora = plan(lora={"rank": 2})
    assert lora.trained == 6 * 4 * 2 * (192 + 192)  # of 6 blocks: q, k, v and out, each 192 wide, two factors of rank 2
    assert lora.optimizer == 8 * lora.trained
    assert lora.average == 0
    assert lora.peak < full.peak
    eight = plan(optimizer={"kind": "adamw8bit", "learning_rate": 0.001})
    assert eight.optimizer == 2 * eight.trained
    assert [phase.name for phase in full.phases] == ["encode", "forward", "backward", "optimizer"]
    assert full.fits
    assert full.peak == max(phase.memory for phase in full.phases)


def test_the_backward_pass_is_twice_the_forward_pass() -> None:
    phases = {phase.name: phase.work for phase in plan().phases}
    # The first linears need no gradient of their input: a little less than twice.
    assert 1.85 < phases["backward"].matmul / phases["forward"].matmul <= 2
    assert phases["backward"].attention == 2.5 * phases["forward"].attention  # scores are computed again


def test_checkpointing_and_parts_take_less_memory_for_the_same_work() -> None:
    data = {"kind": "shapes", "size": 64, "frames": 17}
    vae = {"prepared": "never-read", "clips": 8}  # nothing is encoded, whose activations would hide all others
    plain = plan(batch_size=16, data=data, **vae)
    recomputed = plan(batch_size=16, data=data, activation_checkpointing=True, **vae)
    parts = plan(batch_size=16, accumulate=4, data=data, **vae)
    assert recomputed.activations < 0.4 * plain.activations
    assert recomputed.flops > 1.25 * plain.flops
    assert parts.activations < 0.3 * plain.activations
    assert parts.flops == pytest.approx(plain.flops, rel=0.01)


def test_mixed_precision_halves_what_linears_keep() -> None:
    data = {"kind": "shapes", "size": 64, "frames": 17}
    plain, mixed = (
        plan(batch_size=16, data=data, prepared="never-read", clips=8, precision=precision)
        for precision in ("32-true", "bf16-mixed")
    )
    # Where dtypes are mixed, norms keep their results besides their inputs; in one dtype they do not.
    network, floats = TINY.transformer, torch.float32.itemsize
    results = 2 * network.num_layers * 16 * plain.tokens * network.width * floats
    assert 0.4 * plain.activations < mixed.activations < 0.8 * (plain.activations + results)
    assert mixed.weights == plain.weights
    assert mixed.flops == plain.flops


def test_a_published_model_is_planned_in_seconds_without_its_files() -> None:
    started = time.process_time()
    made = plan(
        model=COGVIDEOX_5B.name,
        batch_size=1,
        precision="bf16-mixed",
        activation_checkpointing=True,
        lora={"rank": 64, "base_dtype": "bfloat16"},
        prepared="never-read",
        data={"kind": "clips", "source": "never-read", "sizes": [[49, 480, 720]]},
    )
    assert time.process_time() - started < 30
    assert made.tokens == 226 + 13 * 30 * 45
    assert 11.0e9 < made.weights < 11.6e9  # 5.57e9 values of two bytes, and the LoRA
    assert made.helpers == 0  # what is prepared needs no encoder
    assert 12e9 < made.peak < 30e9
    assert made.phases[0].seconds is None


@pytest.mark.parametrize(
    "values",
    [
        {"lora": {"rank": 2, "base_dtype": "int8"}, "precision": "bf16-mixed", "activation_checkpointing": True},
        {"model": None, "variant": "tiny", "vae": "tiny", "train_text_encoder": True, "devices": 2},
        {
            "kind": "vae",
            "perceptual": {},
            "discriminator": {"start_step": 5},
            "activation_checkpointing": True,
            "precision": "bf16-mixed",
        },
        {"kind": "text_encoder"},
        {"samples": {"every_steps": 5, "prompts": ["a"], "steps": 2}},
        {
            "optimizer": {"kind": "muon", "learning_rate": 0.001, "matrix_learning_rate": 0.001},
            "timesteps": {"draw": "independent"},
        },
    ],
    ids=["int8", "from-nothing", "vae", "text-encoder", "samples", "muon"],
)
def test_every_kind_of_run_has_a_plan(values: dict[str, Any]) -> None:
    made = plan(**values)
    assert made.peak > made.weights + made.gradients
    assert made.flops > 0
    assert not Path("never-made").exists()


def test_the_network_of_a_plan_is_that_of_the_run(tmp_path: Path) -> None:
    asked = recipe(output=str(tmp_path), lora={"rank": 2})
    real, empty = prepare_run(asked).module, empty_module(asked, torch.device("cpu"))
    described = [
        [(name, weight.shape, weight.dtype, weight.requires_grad) for name, weight in module.named_parameters()]
        for module in (real, empty)
    ]
    assert described[0] == described[1]


def test_a_dry_run_takes_real_steps_and_leaves_nothing(tmp_path: Path) -> None:
    found = dry_run(recipe(output=str(tmp_path / "run"), lora={"rank": 2}, average=None))
    assert list(tmp_path.iterdir()) == []
    assert found.trained == 6 * 4 * 2 * (192 + 192)
    assert found.tokens == 32 + 3 * 2 * 2
    assert 0 < found.loss < 3
    assert found.seconds == 10 * found.step_seconds > 0
    assert found.memory > found.beyond > 0


def test_an_unknown_model_is_one_sentence() -> None:
    with pytest.raises(CogworksError, match="no variant named 'huge'"):
        plan(model=None, variant="huge", vae="tiny", train_text_encoder=True)
