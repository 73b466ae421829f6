"""The protocol of a source of training images, and helpers for pairs."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class Sample(NamedTuple):
    """A training image or pair.

    gt: uint8 or uint16 [H, W, C]. lq: [H/scale, W/scale, C'], or None where the degradation synthesizes it. In
    translation, at scale 1, lq is a and gt is b.
    """

    gt: np.ndarray
    lq: np.ndarray | None = None


def oriented(sample: Sample, direction: str) -> Sample:
    """Return a sample with lq as the input and gt as the target: unchanged for `a_to_b`, swapped for `b_to_a`.

    Raises ValueError for `b_to_a` and a sample without lq.
    """
    if direction == "a_to_b":
        return sample
    if sample.lq is None:
        raise ValueError(f"has no partner, which is the input for direction {direction}")
    return Sample(gt=sample.lq, lq=sample.gt)


class Source(Protocol):
    """Images addressed by (shard, index). A shard is a unit that is read together: a tar, or a whole folder.

    Any class with these three members is a source: `{type: mylab.data.MySource, ...}`. Optional members:
    `expect(shards)` is called with the shards of the next samples, in order, each time they change, to prefetch them.
    `window`: number of shards that are read from at a time (16). `skipped`: an `sr.images.listing.Skipped`, printed at
    the start. `notes()`: sentences that are printed there.
    """

    @property
    def counts(self) -> Sequence[int]:
        """Number of samples in each shard. It determines the order, so it must not change before a resume."""
        ...

    def read(self, shard: int, index: int) -> Sample:
        """Decode one sample. Raises sr.images.ImageError if it is unreadable."""
        ...

    def name(self, shard: int, index: int) -> str:
        """The name of a sample in messages, such as `shard-000003.tar: 000123_street_s002`."""
        ...


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resize [h, w, C] to [side, side, C] by Pillow's bicubic; alpha is resized like any other channel."""
    if image.shape[:2] == (side, side):
        return image
    if image.dtype == np.uint16:
        planes = (Image.fromarray(plane.astype(np.float32)) for plane in image.transpose(2, 0, 1))
        made = [np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC)) for plane in planes]
        return np.stack(made, axis=2).round().clip(0, 65535).astype(np.uint16)
    parts = [image] if image.shape[2] == 3 else [image[..., channel] for channel in range(image.shape[2])]
    small = [np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)) for part in parts]
    return small[0] if image.shape[2] == 3 else np.stack(small, axis=2)


def fit_gt(gt: np.ndarray, lq: np.ndarray, scale: int) -> np.ndarray:
    """Crop gt to `scale` times the size of lq; less than `scale` rows and columns are removed.

    Raises ValueError if the sizes do not match.
    """
    height, width = lq.shape[0] * scale, lq.shape[1] * scale
    spare = gt.shape[0] - height, gt.shape[1] - width
    if not (0 <= spare[0] < scale and 0 <= spare[1] < scale):
        raise ValueError(f"lq is {lq.shape[1]}x{lq.shape[0]} and gt {gt.shape[1]}x{gt.shape[0]}, not {scale} times it")
    return gt[:height, :width]
