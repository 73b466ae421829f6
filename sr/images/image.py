"""What an image is between its two files, and which files are images."""

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
    """An image that cannot be read: `name` says which, `reason` why. The two arguments let it cross processes."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + ("" if ";" in self.reason else "; replace the file or take it out")


@dataclass(frozen=True)
class ImageData:
    """An image with all that its file had to say.

    rgb: float32 [3, h, w] in 0..1 (a grey file has three equal channels). alpha: float32 [1, h, w] or None.
    bits: per channel in the file. icc: the colour profile that the values refer to. meta: what it says about itself.
    lossless: of a WebP, whether it was. missing_rows: the share that the file, cut short, does not hold or not in full.
    notes: what was left out on reading, each in a few words. bands: float32 [n, h, w], all channels of a multispectral
    TIFF that has more than 4; rgb is then the first three of them.
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
