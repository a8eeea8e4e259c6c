"""Shares and means: their values, their bounds, and their way through JSON."""

from __future__ import annotations

import json

import pytest

from cogworks.evaluation.figures.shares import Mean, Share


def test_share() -> None:
    share = Share(9, 10)
    low, high = share.interval
    assert share.value == 0.9
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert Share(0, 0).value == 0
    assert share.to_json() == {"share": 0.9, "right": 9, "total": 10, "low": low, "high": high}


def test_mean() -> None:
    mean = Mean.of([1.0, 4.0, 2.5])
    assert (mean.mean, mean.low, mean.high, mean.count) == (2.5, 1.0, 4.0, 3)
    with pytest.raises(ValueError, match="got none"):
        Mean.of([])


def test_both_come_back_from_json() -> None:
    share, mean = Share(3, 7), Mean.of([0.1, 0.2])
    assert Share.from_json(json.loads(json.dumps(share.to_json()))) == share
    assert Mean.from_json(json.loads(json.dumps(mean.to_json()))) == mean
    with pytest.raises(KeyError):
        Share.from_json({"right": 3})
