"""Runs that are killed at random moments, in one process and in two, end as unbroken ones do, bit by bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cogworks.training.run import open_batches, prepare_run
from cogworks.training.safety.checkpoints import read_checkpoint, step_file
from cogworks.training.transformer.module import TransformerModule
from helpers import small_runs
from helpers.small_runs import same, save_small_model, small_recipe, state_of

LORA = {"lora": {"rank": 2, "dropout": 0.3}}
AVERAGE = {"average": {"decay": 0.9}}
MUON = {"optimizer": {"kind": "muon", "learning_rate": 0.01, "matrix_learning_rate": 0.01}}
UNCLIPPED = {"optimizer": {"learning_rate": 0.01, "clip_norm": None}}
BATCHES = 4  # of a step: two parts on two replicas


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "small")


def unbroken_and_killed(
    model: Path, folder: Path, replicas: int, kills: int, *, spoiled: int | None = None, **values: Any
) -> list[dict[str, Any]]:
    """The states at the end of a run that was left alone, and of one that was killed again and again."""
    outputs = [folder / "unbroken", folder / "killed"]
    jobs = []
    for output, number in zip(outputs, (0, kills), strict=True):
        kept = {"minutes": 1e-9, "every_steps": 1 if number == 0 else None}
        recipe = small_recipe(model, output, devices=replicas, checkpoints=kept, **values)
        jobs.append({"values": recipe.model_dump(mode="json"), "replicas": replicas, "seed": 5, "kills": number})
        jobs[-1]["spoiled"] = spoiled
    program = [sys.executable, small_runs.__file__, json.dumps(jobs)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] >= min(kills, 2), report
    states = [state_of(read_checkpoint(output / "checkpoints" / "last.ckpt")) for output in outputs]
    assert states[0][".step"] == 8
    return states


def test_one_process_that_is_killed_ends_bit_equal(model: Path, tmp_path: Path) -> None:
    states = unbroken_and_killed(model, tmp_path, 1, kills=3, **AVERAGE, **MUON, accumulate=2, data_workers=2)
    assert same(*states)
    states[1][next(key for key in states[1] if "exp_avg_sq" in key)].view(-1)[0] += 1e-12  # the comparison sees it
    assert not same(*states)


@pytest.mark.dist
def test_two_processes_of_which_one_is_killed_end_bit_equal(model: Path, tmp_path: Path) -> None:
    # On the way both are set back, by one loss on one replica, that is not a number.
    states = unbroken_and_killed(model, tmp_path, 2, kills=2, spoiled=5, **AVERAGE, **UNCLIPPED, accumulate=2)
    assert same(*states)
    assert states[0][".RunData.rollbacks"] == 1
    assert states[0][".RunData.skipped"] == 2  # both parts of the third step
    # Their first step was that of both replicas' batches together, which are not the same.
    recipe = small_recipe(model, tmp_path / "alone", **UNCLIPPED, accumulate=2)
    module = prepare_run(recipe).module
    assert isinstance(module, TransformerModule)
    losses, captions = [], set()
    for replica in range(2):
        for number in range(2):
            batch = open_batches(recipe, replica, 2)[number]
            captions.update(batch.captions)
            loss = module.losses(batch, replica, 2)[0].mean()
            (loss / BATCHES).backward()
            losses.append(loss.item())
    assert len(captions) == BATCHES
    first = read_checkpoint(step_file(tmp_path / "unbroken" / "checkpoints", 1))
    assert first["callbacks"]["Sentinel"]["losses"] == pytest.approx([sum(losses) / BATCHES], rel=1e-5)
    momenta = [state["exp_avg"] for state in first["optimizer_states"][0]["state"].values()]
    gradients = [0.1 * parameter.grad for parameter in trained(module)]  # of beta_1 0.9
    for momentum, gradient in zip(momenta, gradients, strict=True):
        # Sums of float32 in another order.
        torch.testing.assert_close(momentum, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "values"),
    [
        (1, {**LORA, "accumulate": 2}),
        (1, {**AVERAGE, "optimizer": {"learning_rate": 0.01}, "learning_rate": {"shape": "sat_cosine"}}),
        (2, {**LORA, "data_workers": 2}),
        (2, {**AVERAGE, **MUON}),
    ],
)
def test_other_runs_that_are_killed_end_bit_equal(
    model: Path, tmp_path: Path, replicas: int, values: dict[str, Any]
) -> None:
    assert same(*unbroken_and_killed(model, tmp_path, replicas, kills=5, **values))


def trained(module: TransformerModule) -> list[Any]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
