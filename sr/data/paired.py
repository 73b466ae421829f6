"""Pairs of images a and b of equal size: lq is a and gt is b."""

import numpy as np

from sr.data.folder import FolderSource
from sr.data.paths import find_images
from sr.data.source import Sample
from sr.images import ImageError, read_pixels, with_channels
from sr.images.listing import printable


class SideBySide:
    """Image files with a in the left half and b in the right half.

    path: folders, globs or files, as for `folder`. A file of odd width counts as unreadable.
    """

    def __init__(self, *, path: str | list[str], channels: tuple[int, int] = (3, 3)) -> None:
        found = find_images(path)
        self._files, self._channels, self.skipped = found.paths, channels, found.skipped

    @property
    def counts(self) -> list[int]:
        return [len(self._files)]

    def read(self, shard: int, index: int) -> Sample:
        enough = 4 if set(self._channels) == {2, 3} else max(self._channels)
        name = self.name(shard, index)
        a, b = halves(read_pixels(self._files[index], channels=enough, name=name, deep=True), name)
        return Sample(lq=with_channels(a, self._channels[0]), gt=with_channels(b, self._channels[1]))

    def name(self, shard: int, index: int) -> str:
        return printable(self._files[index])


def halves(whole: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Split [h, 2 * w, C] into a and b, [h, w, C] each. Raises ImageError for an odd width."""
    height, width = whole.shape[:2]
    middle = half_of(height, width, name)
    return whole[:, :middle], whole[:, middle:]


def half_of(height: int, width: int, name: str) -> int:
    """The width of each half. Raises ImageError for an odd width."""
    if width % 2:
        raise ImageError(name, f"{width}x{height} does not part into two equal halves")
    return width // 2


class Paired(FolderSource):
    """Two sets of image files, paired by name (see `sr.data.pairs`).

    a, b: folders, globs or files, as for `folder`. An image of a without a partner in b is skipped and counted.
    """

    def __init__(self, *, a: str | list[str], b: str | list[str], channels: tuple[int, int] = (3, 3)) -> None:
        super().__init__(gt=b, lq=a, channels=channels)
