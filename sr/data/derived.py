"""Pairs computed from photographs."""

import copy
from collections.abc import Sequence

import numpy as np

from sr.data.source import Sample, Source, resized
from sr.images import eight_bits


class Derived:
    """Base class of sources that compute a and b from the photographs (of pairs, the gt) of another source.

    Training crops first and splits the crop, which is cheaper and avoids resampling or rounding twice.
    """

    def __init__(self, of: Source) -> None:
        self.of = of

    @property
    def counts(self) -> Sequence[int]:
        return self.of.counts

    def read(self, shard: int, index: int) -> Sample:
        return self.split(self.photo(shard, index))

    def name(self, shard: int, index: int) -> str:
        return self.of.name(shard, index)

    def photo(self, shard: int, index: int) -> np.ndarray:
        """The photograph to split, uint8 [h, w, C]: pairs are computed from 8 bits."""
        return eight_bits(self.of.read(shard, index).gt)

    def split(self, photo: np.ndarray) -> Sample:
        """Compute Sample(lq=a, gt=b) from uint8 [h, w, C], of the same size."""
        raise NotImplementedError

    def over(self, source: Source) -> "Derived":
        """A copy that reads the photographs of another source."""
        made = copy.copy(self)
        made.of = source
        return made


def read_resized(source: Source, place: tuple[int, int], side: int, scale: int = 1) -> Sample:
    """Read one sample with its gt resized to side x side. A derived source splits the resized photograph.

    place: (shard, index).
    """
    if isinstance(source, Derived):
        return source.split(resized(source.photo(*place), side))
    gt, lq = source.read(*place)
    return Sample(resized(gt, side), None if lq is None else resized(lq, side // scale))
