"""Pairs made out of plain photographs."""

import copy
from collections.abc import Sequence

import numpy as np

from sr.data.source import Sample, Source, resized


class Derived:
    """A source over another one, whose photographs (of pairs, the gt) become a and b: `split` says how.

    Training crops first and splits the crop: that is cheaper, and nothing is resampled or rounded twice.
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
        """What is to be split, uint8 [h, w, C]."""
        return self.of.read(shard, index).gt

    def split(self, photo: np.ndarray) -> Sample:
        """uint8 [h, w, C], of any size -> Sample(lq=a, gt=b) of the same size."""
        raise NotImplementedError

    def over(self, source: Source) -> "Derived":
        """The same made out of another source's photographs."""
        made = copy.copy(self)
        made.of = source
        return made


def read_resized(source: Source, place: tuple[int, int], side: int, scale: int = 1) -> Sample:
    """One sample with its gt resized to side x side; what is derived is made of the resized photograph, as in training.

    place: (shard, index).
    """
    if isinstance(source, Derived):
        return source.split(resized(source.photo(*place), side))
    gt, lq = source.read(*place)
    return Sample(resized(gt, side), None if lq is None else resized(lq, side // scale))
