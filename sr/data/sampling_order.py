"""The sampling order: a pure function of seed and position, so the state of the data is one integer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ORDER_STREAM = 5  # second word of the random key, different for each use of the seed
WINDOW = 16  # shards


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
        self._counts = np.asarray(counts, dtype=np.int64)
        self._key, self._window = (seed, ORDER_STREAM, part), window
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[tuple[int, int], np.ndarray] = {}
        self.length = int(self._counts.sum())

    def __call__(self, position: int) -> SampleIndex:
        epoch, window = self.window(position)
        _, ends = self._epoch(epoch)
        within = self._shuffled(epoch, window)
        place = int(within[position - epoch * self.length - (int(ends[window - 1]) if window else 0)])
        members = self._members(epoch, window)
        stops = np.cumsum(self._counts[members])
        which = int(np.searchsorted(stops, place, side="right"))
        return SampleIndex(epoch, int(members[which]), place - (int(stops[which - 1]) if which else 0))

    def window(self, position: int) -> tuple[int, int]:
        """Return (epoch, window) of a position."""
        epoch, offset = divmod(position, self.length)
        return epoch, int(np.searchsorted(self._epoch(epoch)[1], offset, side="right"))

    def coming(self, epoch: int, window: int) -> list[int]:
        """Return the shards of a window and of the next one, which may be the first of the next epoch."""
        last = (window + 1) * self._window >= len(self._counts)
        following = self._members(epoch + 1, 0) if last else self._members(epoch, window + 1)
        return [*map(int, self._members(epoch, window)), *map(int, following)]

    def _members(self, epoch: int, window: int) -> np.ndarray:
        return self._epoch(epoch)[0][window * self._window : (window + 1) * self._window]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards in the order of an epoch, and the cumulative samples at the end of each window."""
        if epoch not in self._epochs:
            shards = np.random.default_rng([*self._key, epoch]).permutation(len(self._counts))
            last = np.minimum(np.arange(self._window, len(shards) + self._window, self._window), len(shards)) - 1
            _keep_two(self._epochs, epoch, (shards, np.cumsum(self._counts[shards])[last]))
        return self._epochs[epoch]

    def _shuffled(self, epoch: int, window: int) -> np.ndarray:
        if (epoch, window) not in self._windows:
            _, ends = self._epoch(epoch)
            size = int(ends[window] - (ends[window - 1] if window else 0))
            shuffled = np.random.default_rng([*self._key, epoch, window + 1]).permutation(size)
            _keep_two(self._windows, (epoch, window), shuffled)
        return self._windows[epoch, window]


def _keep_two(cache: dict, key: object, value: object) -> None:
    """Insert into a cache of two entries, which suffice since positions increase."""
    while len(cache) > 1:
        cache.pop(next(iter(cache)))
    cache[key] = value
