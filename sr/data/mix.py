"""Mix several sources in fixed proportions."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, NamedTuple

import numpy as np

from sr.config.registry import PartOf
from sr.core.errors import UserError
from sr.data.derived import Derived
from sr.data.sampling_order import WINDOW, SamplingOrder
from sr.data.source import Source
from sr.data.unpaired import Unpaired

LONGEST = 1000


class Mix:
    """Samples of several sources, interleaved evenly in proportion to `weights`, exact to 1 in 1000.

    Each source has its own epochs.
    """

    def __init__(self, *, sources: list[Annotated[Source, PartOf("sources")]], weights: list[float]) -> None:
        if len(sources) != len(weights):
            raise UserError(
                f"a mix has {len(sources)} sources but {len(weights)} weights; give one weight for each source"
            )
        if not weights or min(weights) <= 0:
            raise UserError(f"the weights of a mix are {weights}; give every source a weight above 0")
        self.parts = [
            (part, share * weight / sum(weights))
            for source, weight in zip(sources, weights, strict=True)
            for part, share in parts_of(source)
        ]


Sources = Source | Mix | Unpaired


def parts_of(source: Sources) -> list[tuple[Source, float]]:
    """Return the sources that read samples, each with its share of the samples."""
    if isinstance(source, Unpaired):
        raise UserError("unpaired sets cannot stand inside another source; put the mix into their a or b")
    if isinstance(source, Mix):
        return source.parts
    if isinstance(source, Derived):
        return [(source.over(part), share) for part, share in parts_of(source.of)]
    return [(source, 1.0)]


def sides_of(source: Sources) -> list[list[tuple[Source, float]]]:
    """Return the parts of a source; of unpaired sets, the parts of b (the target), then those of a."""
    return [parts_of(source.b), parts_of(source.a)] if isinstance(source, Unpaired) else [parts_of(source)]


class Address(NamedTuple):
    part: int
    shard: int
    sample: int


class Route:
    """Map a position to an Address: the source whose turn it is, and the sample in its own order. O(1).

    first: index of the first part among all parts of the run; it makes their orders different.
    """

    def __init__(self, parts: Sequence[tuple[Source, float]], *, seed: int, first: int = 0) -> None:
        self._turns = pattern([share for _, share in parts])
        self._seats = [np.flatnonzero(self._turns == part) for part in range(len(parts))]
        readers = [_reader(source) for source, _ in parts]
        self._orders = [
            SamplingOrder(reader.counts, seed=seed, part=number, window=getattr(reader, "window", WINDOW))
            for number, reader in enumerate(readers, first)
        ]
        self._expect: list[Callable[[Sequence[int]], None] | None] = [getattr(r, "expect", None) for r in readers]
        self._windows = [(-1, -1)] * len(parts)  # the last window that was passed to `expect`

    def __call__(self, position: int) -> Address:
        round_, turn = divmod(position, len(self._turns))
        part = int(self._turns[turn])
        seats = self._seats[part]
        own = round_ * len(seats) + int(np.searchsorted(seats, turn))
        expect, order = self._expect[part], self._orders[part]
        if expect is not None and order.window(own) != self._windows[part]:
            self._windows[part] = order.window(own)
            expect(order.coming(*self._windows[part]))
        place = order(own)
        return Address(part, place.shard, place.sample)


def _reader(source: Source) -> Source:
    """The source that reads the files, which may define `expect` and `window` (see `sr.data.source`)."""
    while isinstance(source, Derived):
        source = source.of
    return source


def pattern(shares: Sequence[float]) -> np.ndarray:
    """The part of each turn in one round, spread evenly: the shortest exact round, of at most 1000 turns."""
    exact = [Fraction(share / sum(shares)).limit_denominator(LONGEST) for share in shares]
    length = min(int(np.lcm.reduce([share.denominator for share in exact])), LONGEST)
    turns = np.maximum(1, [round(share * length) for share in exact])
    optimizer_state = [((i + 0.5) / count, part) for part, count in enumerate(turns) for i in range(count)]
    return np.array([part for _, part in sorted(optimizer_state)])
