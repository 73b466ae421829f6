"""What a source of training images is, and the check that all pairs share."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """One training image. gt: uint8 [H, W, C]. lq: uint8 [H/scale, W/scale, C'], or None where it is yet to be made.

    A pair of translation is the same at scale 1: lq is its a, gt its b.
    """

    gt: np.ndarray
    lq: np.ndarray | None = None


def oriented(sample: Sample, direction: str) -> Sample:
    """lq as what is given and gt as what is wanted: a and b for `a_to_b`, exchanged for `b_to_a`.

    Raises ValueError for a sample without lq, which has nothing to exchange.
    """
    if direction == "a_to_b":
        return sample
    if sample.lq is None:
        raise ValueError(f"has no partner, which direction {direction} starts from")
    return Sample(gt=sample.lq, lq=sample.gt)


class Source(Protocol):
    """Images addressed by (shard, index). A shard is whatever is cheap to read from together: a tar, or a whole folder.

    A class of your own that has these three is a source: `{type: mylab.data.MySource, ...}`. One that also has
    `expect(shards)` is told the shards of the coming samples, in their order, each time these change: to fetch ahead.
    `window`: shards that are read from at a time (16). `skipped`: what to report at the start, see `sr.images.listing`.
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


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [h, w, C] -> [side, side, C], Pillow's bicubic. Where it has alpha, Pillow would mix it in; not here."""
    if image.shape[:2] == (side, side):
        return image
    parts = [image] if image.shape[2] == 3 else [image[..., channel] for channel in range(image.shape[2])]
    small = [np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)) for part in parts]
    return small[0] if image.shape[2] == 3 else np.stack(small, axis=2)


def fit_gt(gt: np.ndarray, lq: np.ndarray, scale: int) -> np.ndarray:
    """The part of `gt` that `lq` shows: all of it but a remainder of less than `scale` pixels.

    Raises ValueError when lq is not gt made smaller by `scale`.
    """
    height, width = lq.shape[0] * scale, lq.shape[1] * scale
    spare = gt.shape[0] - height, gt.shape[1] - width
    if not (0 <= spare[0] < scale and 0 <= spare[1] < scale):
        raise ValueError(f"lq is {lq.shape[1]}x{lq.shape[0]} and gt {gt.shape[1]}x{gt.shape[0]}, not {scale} times it")
    return gt[:height, :width]
