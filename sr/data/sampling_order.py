"""The sampling order: a pure function of seed and position, so the state of the data is one integer.

It is a function of the counts of the shards up to the position. Without published counts, each window of shards is
counted when the positions reach it (`sr.data.counts`): two nodes find the same counts, and a run that resumes finds
those of all earlier windows again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sr.core.errors import UserError
from sr.data.counts import Counts

ORDER_STREAM = 5  # second word of the random key, different for each use of the seed
WINDOW = 16  # shards
NEXT = 10_000  # samples; a window that starts at most this far before the position is probably read next


class SampleIndex(NamedTuple):
    """One sample: its epoch, its shard, and its index in the shard."""

    epoch: int
    shard: int
    sample: int


class SamplingOrder:
    """Map a position to a SampleIndex; every sample comes once per epoch.

    Each epoch shuffles the shards, divides them into windows of `window` shards, and shuffles the samples of each
    window. Only `window` shards are read from at a time, and any position is found directly (500 million samples:
    milliseconds for the first position, then microseconds). Memory: 8 bytes per sample of two windows.
    `part` makes the orders of several sources different.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, part: int = 0, window: int = WINDOW) -> None:
        self._counts = counts if isinstance(counts, Counts) else Counts(counts, counts, _counted)
        self._key, self._window = (seed, ORDER_STREAM, part), window
        self._orders: dict[int, np.ndarray] = {}
        self._epochs: dict[int, np.ndarray] = {}  # the cumulative samples at the end of each window
        self._windows: dict[tuple[int, int], np.ndarray] = {}
        self._first_ends: list[int] = []  # of the windows of epoch 0 that are counted
        self._length = 0 if self._counts.missing else self._counts.total  # of an epoch; 0 until it is known

    def __call__(self, position: int) -> SampleIndex:
        epoch, window = self.window(position)
        within = self._shuffled(epoch, window)
        place = int(within[position - epoch * self._length - self._bounds(epoch, window)[0]])
        members = self._members(epoch, window)
        stops = np.cumsum(self._counts.of(members))
        which = int(np.searchsorted(stops, place, side="right"))
        return SampleIndex(epoch, int(members[which]), place - (int(stops[which - 1]) if which else 0))

    def window(self, position: int) -> tuple[int, int]:
        """Return (epoch, window) of a position."""
        if not self._length and self._is_in_first(position):
            return 0, int(np.searchsorted(self._first_ends, position, side="right"))
        epoch, offset = divmod(position, self._length)
        return epoch, int(np.searchsorted(self._epoch(epoch), offset, side="right"))

    def _is_in_first(self, position: int) -> bool:
        """Count windows of epoch 0 until one contains the position; False if the position is beyond the epoch."""
        ends, windows = self._first_ends, -(-len(self._counts) // self._window)
        while not ends or ends[-1] <= position:
            if len(ends) == windows:
                self._length = ends[-1]
                if not self._length:
                    raise UserError("data.source: no shard holds a sample that is taken; correct its path, gt or where")
                return False
            end = ends[-1] if ends else 0
            ends.append(end + int(self._counts.of(self._members(0, len(ends)), soon=position - end <= NEXT).sum()))
        return True

    def _bounds(self, epoch: int, window: int) -> tuple[int, int]:
        """First position of a window and of the next one, from the start of the epoch."""
        ends = self._epoch(epoch) if self._length else self._first_ends
        return int(ends[window - 1]) if window else 0, int(ends[window])

    def coming(self, epoch: int, window: int) -> list[int]:
        """Return the shards of a window and of the next one, which may be the first of the next epoch."""
        last = (window + 1) * self._window >= len(self._counts)
        following = self._members(epoch + 1, 0) if last else self._members(epoch, window + 1)
        return [*map(int, self._members(epoch, window)), *map(int, following)]

    def _members(self, epoch: int, window: int) -> np.ndarray:
        return self._permuted(epoch)[window * self._window : (window + 1) * self._window]

    def _permuted(self, epoch: int) -> np.ndarray:
        """The shards in the order of an epoch."""
        if epoch not in self._orders:
            order = np.random.default_rng([*self._key, epoch]).permutation(len(self._counts))
            _keep_two(self._orders, epoch, order)
        return self._orders[epoch]

    def _epoch(self, epoch: int) -> np.ndarray:
        """The cumulative samples at the end of each window of an epoch."""
        if epoch not in self._epochs:
            shards = self._permuted(epoch)
            last = np.minimum(np.arange(self._window, len(shards) + self._window, self._window), len(shards)) - 1
            _keep_two(self._epochs, epoch, np.cumsum(self._counts.of(shards))[last])
        return self._epochs[epoch]

    def _shuffled(self, epoch: int, window: int) -> np.ndarray:
        if (epoch, window) not in self._windows:
            first, end = self._bounds(epoch, window)
            shuffled = np.random.default_rng([*self._key, epoch, window + 1]).permutation(end - first)
            _keep_two(self._windows, (epoch, window), shuffled)
        return self._windows[epoch, window]


def _counted(shards: list[int], soon: bool) -> list[int]:
    raise AssertionError("all counts are known")


def _keep_two(cache: dict, key: object, value: object) -> None:
    """Insert into a cache of two entries, which suffice since positions increase."""
    while len(cache) > 1:
        cache.pop(next(iter(cache)))
    cache[key] = value
