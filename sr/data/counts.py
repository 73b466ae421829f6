"""Sample counts that become known while a run reads its shards."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sr.data.index import UNCOUNTED


class Counts(Sequence[int]):
    """Number of samples in each shard. Shards without a published count are counted on first use.

    The sampling order needs the counts of the shards up to a position only, so a run starts before all are known, and
    its order does not depend on what is known (see `sr.data.sampling_order`).

    Args:
        stated: published counts; UNCOUNTED for none. They are equal on all nodes.
        known: `stated`, and what earlier runs on this node counted.
        count: returns the counts of shards. Its second argument: whether the shards are read next.
    """

    def __init__(
        self, stated: Sequence[int], known: Sequence[int], count: Callable[[list[int], bool], list[int]]
    ) -> None:
        self.stated = list(stated)
        self._known, self._count = np.asarray(known, dtype=np.int64), count

    @property
    def missing(self) -> int:
        return int((self._known == UNCOUNTED).sum())

    @property
    def total(self) -> int:
        """Samples in the shards that are counted."""
        return int(self._known[self._known != UNCOUNTED].sum())

    def of(self, shards: np.ndarray, *, soon: bool = False) -> np.ndarray:
        """The counts of some shards. soon: they are read next, so that they may be counted by downloading them."""
        unknown = shards[self._known[shards] == UNCOUNTED]
        if len(unknown):
            self._known[unknown] = self._count([int(shard) for shard in unknown], soon)
        return self._known[shards]

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, shard: int) -> int:  # type: ignore[override]
        return int(self.of(np.array([shard]), soon=True)[0])

    def __iter__(self) -> Iterator[int]:
        return iter(self.of(np.arange(len(self)), soon=True).tolist())


def stated(counts: Sequence[int]) -> list[int]:
    """The counts that all nodes see alike: all that are not found by reading shards."""
    return counts.stated if isinstance(counts, Counts) else list(counts)
