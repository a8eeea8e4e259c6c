"""The order of training: from the number of a batch to the clips in it, as a pure function.

Nothing is remembered from one batch to the next, so that a run that goes on from a checkpoint sees what an unbroken
one would.

Letters: n clips of a bucket; G clips of a batch on all replicas together; e epoch, from 0.

- Every epoch shuffles the clips of each bucket and the order of its batches anew, by (seed, epoch).
- A bucket gives ceil((e + 1) n / G) - ceil(e n / G) batches in epoch e: in the long run n / G an epoch, each clip as
  often as any other whatever its bucket, and at least one in the first. What does not fill a batch is carried: it
  makes one in a later epoch. Where that asks for more clips than there are, the shuffled order begins again, and where
  it asks for fewer, the last of the order are left out of this epoch.
- A batch holds a clip twice only if its bucket has fewer than G. Replicas never share a clip of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cogworks.config.training_data import Bucket
from cogworks.errors import DataError
from cogworks.rng import derive_seed


class Share(NamedTuple):
    """A replica's part of a batch: its bucket, and the indices of its clips."""

    bucket: Bucket
    indices: tuple[int, ...]


class EpochOrder:
    """Which clips batch `number` holds, for every number from 0 on, without end.

    Args:
        buckets: the indices of the clips of each bucket.
        batch_size: clips of a batch on one replica.
        replicas: how many there are.
        seed: of the shuffling.

    Raises:
        DataError: no clip in any bucket, or a bucket with fewer clips than replicas.
    """

    def __init__(
        self, buckets: Mapping[Bucket, Sequence[int]], batch_size: int, replicas: int = 1, seed: int = 0
    ) -> None:
        self.buckets = {bucket: tuple(buckets[bucket]) for bucket in sorted(buckets) if buckets[bucket]}
        self.batch_size, self.replicas, self.seed = batch_size, replicas, seed
        if min(batch_size, replicas) < 1:
            raise DataError(f"batch size and replicas must be 1 or more, got {batch_size} and {replicas}")
        if not self.buckets:
            raise DataError("no clip fits any size of the recipe; `cogworks data check RECIPE` tells why")
        for bucket, clips in self.buckets.items():
            if len(clips) < replicas:
                shape = "x".join(map(str, bucket))
                raise DataError(
                    f"size {shape} has {_counted(len(clips), 'clip')}, fewer than the {replicas} replicas, which share "
                    "none; add clips, leave that size out or use fewer replicas"
                )
        self._epoch_plan = lru_cache(maxsize=2)(self._plan)
        self._shuffled = lru_cache(maxsize=4 * len(self.buckets))(self._shuffle)

    def __reduce__(self) -> tuple[type[EpochOrder], tuple[object, ...]]:
        """Only what it is made from goes to another process."""
        return EpochOrder, (self.buckets, self.batch_size, self.replicas, self.seed)

    def share(self, number: int, replica: int = 0) -> Share:
        """The clips of one replica in batch `number`.

        Returns:
            The bucket, the same for all replicas, and `batch_size` indices; no other replica has any of them.
        """
        bucket, epoch, within = self._locate(number)
        return Share(bucket, tuple(self._rows(bucket, epoch, within)[replica]))

    def substitutes(self, number: int, replica: int, place: int) -> Iterator[int]:
        """What stands in for the clip at `place` in a share if it cannot be read: the first of these that can.

        The order depends on nothing but the arguments. First come clips that are not in the batch, other ones for
        each replica, then the rest of the share, and at last every other clip of the bucket.
        """
        bucket, epoch, within = self._locate(number)
        rows = self._rows(bucket, epoch, within)
        bad = rows[replica][place]
        taken = {index for row in rows for index in row}
        free = [index for index in self._shuffled(bucket, epoch) if index not in taken][replica :: self.replicas]
        turn = place % len(free) if free else 0  # two bad clips of a share get different ones
        ordered = [*free[turn:], *free[:turn], *rows[replica], *self._shuffled(bucket, epoch)]
        return (index for index in dict.fromkeys(ordered) if index != bad)

    def epoch_of(self, number: int) -> int:
        """The epoch that batch `number` belongs to."""
        return self._locate(number)[1]

    def batches_before(self, epoch: int) -> int:
        """How many batches come before an epoch."""
        return sum(-(-epoch * len(clips) // self._batch) for clips in self.buckets.values())

    @property
    def _batch(self) -> int:
        return self.batch_size * self.replicas

    def _locate(self, number: int) -> tuple[Bucket, int, int]:
        """The bucket of a batch, its epoch, and its number among the batches of that bucket in that epoch."""
        if number < 0:
            raise DataError(f"batches are numbered from 0, got {number}")
        # In the long run an epoch has clips / G batches, and it begins less than one batch a bucket later than that.
        clips = sum(map(len, self.buckets.values()))
        epoch = max(0, (number - len(self.buckets)) * self._batch // clips)
        while self.batches_before(epoch + 1) <= number:
            epoch += 1
        bucket, within = self._epoch_plan(epoch)[number - self.batches_before(epoch)]
        return bucket, epoch, within

    def _plan(self, epoch: int) -> list[tuple[Bucket, int]]:
        """The batches of an epoch in their order."""
        batches = [
            (bucket, within)
            for bucket, clips in self.buckets.items()
            for within in range(-(-(epoch + 1) * len(clips) // self._batch) - -(-epoch * len(clips) // self._batch))
        ]
        return [batches[index] for index in self._order(len(batches), epoch, "batches")]

    def _rows(self, bucket: Bucket, epoch: int, within: int) -> list[list[int]]:
        """The indices of each replica in the batch `within` of a bucket."""
        clips = self._shuffled(bucket, epoch)
        if len(clips) < self._batch:  # each replica repeats clips of its own
            own = [clips[replica :: self.replicas] for replica in range(self.replicas)]
            return [[part[place % len(part)] for place in range(self.batch_size)] for part in own]
        first = within * self._batch
        batch = [clips[place % len(clips)] for place in range(first, first + self._batch)]
        return [batch[replica * self.batch_size :][: self.batch_size] for replica in range(self.replicas)]

    def _shuffle(self, bucket: Bucket, epoch: int) -> tuple[int, ...]:
        clips = self.buckets[bucket]
        return tuple(clips[index] for index in self._order(len(clips), epoch, "x".join(map(str, bucket))))

    def _order(self, count: int, epoch: int, what: str) -> NDArray[np.int64]:
        return np.random.default_rng(derive_seed("epoch", self.seed, epoch, what)).permutation(count)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
