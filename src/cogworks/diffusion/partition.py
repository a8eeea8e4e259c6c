"""Which timesteps a replica draws from under SAT's explicit uniform sampling.

Replicas are cut into groups of consecutive ones, and the timesteps into as many intervals of equal length; the samples
of a replica are drawn from the interval of its group. `draw_positions` with "spread" is the same idea without its
limits: any number of replicas, the samples of one replica apart as well, and no replica bound to one interval.

Sources: SAT's sigma sampling in the states tagged v1.0 (`interval_v10`) and later (`interval_head`).
"""

from __future__ import annotations

from cogworks.errors import RecipeError

NUM_TIMESTEPS = 1000
HEAD_GROUPS = 40  # in the published configuration of 1.5
HEAD_OFF_UP_TO = 8  # replicas


def interval_v10(replica: int, replicas: int) -> tuple[int, int]:
    """The timesteps [low, high) of a replica: as many groups as divide both the replicas and the 1000 timesteps.

    The smallest groups, of i replicas, such that i divides the replicas and their number divides 1000; with 3 replicas
    that is one group of all.
    """
    size = next(i for i in range(1, replicas + 1) if replicas % i == 0 and NUM_TIMESTEPS % (replicas // i) == 0)
    return _interval(replica // size, replicas // size)


def interval_head(replica: int, replicas: int) -> tuple[int, int]:
    """The timesteps [low, high) of a replica: 40 groups; up to 8 replicas draw from all timesteps.

    Raises:
        RecipeError: more than 8 replicas, and no multiple of 40.
    """
    if replicas <= HEAD_OFF_UP_TO:
        return 0, NUM_TIMESTEPS
    if replicas % HEAD_GROUPS:
        raise RecipeError(
            f"timesteps drawn as in SAT 1.5 need up to {HEAD_OFF_UP_TO} devices or a multiple of {HEAD_GROUPS}, "
            f"got {replicas}; spread them instead"
        )
    return _interval(replica // (replicas // HEAD_GROUPS), HEAD_GROUPS)


def _interval(group: int, groups: int) -> tuple[int, int]:
    length = NUM_TIMESTEPS // groups
    return group * length, (group + 1) * length
