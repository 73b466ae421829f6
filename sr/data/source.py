"""What a source of training images is, and the check that all pairs share."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Sample(NamedTuple):
    """One training image. gt: uint8 [H, W, 3]. lq: uint8 [H/scale, W/scale, 3], or None where it is yet to be made."""

    gt: np.ndarray
    lq: np.ndarray | None = None


class Source(Protocol):
    """Images addressed by (shard, index). A shard is whatever is cheap to read from together: a tar, or a whole folder.

    A class of your own that has these three is a source: `{type: mylab.data.MySource, ...}`.
    """

    @property
    def counts(self) -> Sequence[int]:
        """Samples in each shard. It fixes the order of the run, so it must not change between start and resume."""
        ...

    def read(self, shard: int, index: int) -> Sample:
        """Decode one sample. Raises sr.images.ImageError when it cannot be."""
        ...

    def name(self, shard: int, index: int) -> str:
        """What to call the sample in reports, as in `shard-000003.tar: 000123_street_s002`."""
        ...


def fit_gt(gt: np.ndarray, lq: np.ndarray, scale: int) -> np.ndarray:
    """The part of `gt` that `lq` shows: all of it but a remainder of less than `scale` pixels.

    Raises ValueError when lq is not gt made smaller by `scale`.
    """
    height, width = lq.shape[0] * scale, lq.shape[1] * scale
    spare = gt.shape[0] - height, gt.shape[1] - width
    if not (0 <= spare[0] < scale and 0 <= spare[1] < scale):
        raise ValueError(f"lq is {lq.shape[1]}x{lq.shape[0]} and gt {gt.shape[1]}x{gt.shape[0]}, not {scale} times it")
    return gt[:height, :width]
