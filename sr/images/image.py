"""The image between reading and writing, and the error for images that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from sr.core.errors import UserError
from sr.images.formats import READ_SUFFIXES
from sr.images.listing import list_folder
from sr.images.meta import Meta


class ImageError(UserError):
    """An image cannot be read.

    Args:
        name: the file, or the shard and the sample.
        reason: what is wrong. It may end in "; " and a fix.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + ("" if ";" in self.reason else "; replace or remove the file")


@dataclass(frozen=True)
class ImageData:
    """An image with the metadata of its file.

    Attributes:
        rgb: float32 [3, h, w] in 0..1. A gray image has three equal channels. An image of 8 bits without alpha that is
            ready to be written may hold uint8 in 0..255.
        alpha: float32 [1, h, w] in 0..1, or None.
        gray: whether the file is gray.
        bits: bits per channel in the file.
        icc: ICC profile of the values.
        meta: EXIF, resolution, text, XMP and color chunks.
        lossless: whether the file is a lossless WebP.
        missing_rows: share of the rows, in 0..1, that a truncated file lacks or holds incompletely.
        notes: what was dropped while reading, each as a short phrase.
        bands: float32 [n, h, w], all channels of a TIFF that has more than 4; rgb then holds the first three.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    gray: bool = False
    bits: Literal[8, 16] = 8
    icc: bytes | None = None
    meta: Meta = field(default_factory=Meta)
    lossless: bool = False
    missing_rows: float = 0.0
    notes: tuple[str, ...] = ()
    bands: Tensor | None = None

    @property
    def pixels(self) -> int:
        return self.rgb.shape[-2] * self.rgb.shape[-1]


def list_images(folder: str | Path, suffixes: Sequence[str] = READ_SUFFIXES) -> list[Path]:
    """The files of `sr.images.listing.list_folder`: links are followed, hidden and other files are skipped."""
    return list_folder(folder, suffixes).paths
