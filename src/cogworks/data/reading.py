"""Reading the clips of a batch, with another in place of one that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from cogworks.config.training_data import Bucket
from cogworks.data.epochs import EpochOrder
from cogworks.errors import DataError, VideoError

_log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[int | str, ...]


class Reading(NamedTuple, Generic[T]):
    """What was read for one place of a batch: the index of the clip, and what `read` made of it."""

    clip: int
    value: T


class ShareReader(Generic[T]):
    """Reads the shares of batches in any order.

    A clip that cannot be read is replaced by the first of `EpochOrder.substitutes` that can: which one depends on the
    files alone, not on what was read before. It is logged once (in each process that reads) and remembered in `bad`.

    Args:
        order: which clips a batch holds.
        read: from the index of a clip, the bucket and a key for what is random (the seed, the number of the batch, the
            replica and the place in its share) to what training needs. It raises VideoError or DataError for a clip
            that cannot be used.
        names: what the clips are called in messages, by index.
    """

    def __init__(self, order: EpochOrder, read: Callable[[int, Bucket, Key], T], names: Sequence[str]) -> None:
        self.order, self._read, self._names = order, read, names
        self.bad: dict[int, str] = {}

    def share(self, number: int, replica: int = 0) -> tuple[Bucket, list[Reading[T]]]:
        """Everything of one replica's share of a batch.

        Raises:
            DataError: no clip of the bucket can be read.
        """
        bucket, indices = self.order.share(number, replica)
        return bucket, [self._reading(number, replica, place, bucket, index) for place, index in enumerate(indices)]

    def _reading(self, number: int, replica: int, place: int, bucket: Bucket, index: int) -> Reading[T]:
        key = (self.order.seed, number, replica, place)
        if (first := self._attempt(index, bucket, key)) is not None:
            return first
        for other in self.order.substitutes(number, replica, place):
            if (reading := self._attempt(other, bucket, key)) is not None:
                return reading
        raise DataError(
            f"none of the clips of size {'x'.join(map(str, bucket))} can be read; the first: {self.bad[index]}"
        )

    def _attempt(self, index: int, bucket: Bucket, key: Key) -> Reading[T] | None:
        if index in self.bad:
            return None
        try:
            return Reading(index, self._read(index, bucket, key))
        except (VideoError, DataError) as error:
            self.bad[index] = str(error)
            _log.warning("left out, and another clip in its place: %s (%s)", self._names[index], error)
            return None
