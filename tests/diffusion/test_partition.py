"""SAT's explicit uniform sampling: the interval of every replica, as recorded."""

from __future__ import annotations

import json

import pytest

from cogworks.diffusion.partition import interval_head, interval_v10
from cogworks.errors import RecipeError
from helpers.golden_weights import GOLDEN

RECORDED = {
    name: {int(replicas): [tuple(pair) for pair in pairs] for replicas, pairs in json.loads(path.read_text()).items()}
    for name in ("v10", "head")
    for path in [GOLDEN / f"sigma_partition_{name}.json"]
}


@pytest.mark.parametrize(
    ("name", "replicas"), [(name, replicas) for name, table in RECORDED.items() for replicas in table]
)
def test_intervals_are_sats(name: str, replicas: int) -> None:
    interval = {"v10": interval_v10, "head": interval_head}[name]
    assert [interval(replica, replicas) for replica in range(replicas)] == RECORDED[name][replicas]


def test_the_two_rules_differ() -> None:
    assert interval_v10(0, 8) != interval_head(0, 8)


@pytest.mark.parametrize("replicas", [9, 39, 50, 100])
def test_head_wants_whole_groups(replicas: int) -> None:
    with pytest.raises(RecipeError, match=f"multiple of 40, got {replicas}"):
        interval_head(0, replicas)


@pytest.mark.parametrize("replicas", [*range(1, 41), 77, 1000, 1024])
def test_replicas_cover_every_timestep_equally(replicas: int) -> None:
    counts = [0.0] * 1000
    for replica in range(replicas):
        low, high = interval_v10(replica, replicas)
        for timestep in range(low, high):
            counts[timestep] += 1 / (high - low)
    assert counts == pytest.approx([replicas / 1000] * 1000)
