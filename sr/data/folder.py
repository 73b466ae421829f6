"""Plain image files as a source."""

from pathlib import Path

import numpy as np

from sr.data.codecs import decode
from sr.data.pairs import pair_up
from sr.data.paths import find_images
from sr.data.source import Sample
from sr.images import ImageError, has_alpha
from sr.images.listing import printable

CHECKED = 1000  # files whose headers are read at the start


class FolderSource:
    """Image files in folders: one shard, one sample per file, decoded whole for every crop.

    gt, lq: folders, globs or files (`package:skimage/data/coffee.png` for one inside a package). With `lq` the
    files are pairs by name (see `sr.data.pairs`); an lq image without a gt image is skipped and counted.
    Cut large photographs by `sr shard` first: decoding 2 megapixels costs 50 times as much as a crop of 256.
    channels: of lq and of gt, see `sr.images.read_pixels`. An alpha channel that they lack is dropped, and reported.
    """

    def __init__(
        self, *, gt: str | list[str], lq: str | list[str] | None = None, channels: tuple[int, int] = (3, 3)
    ) -> None:
        found = find_images(gt)
        self._gt, self._lq, self._channels, self.skipped = found.paths, None, channels, found.skipped
        if lq is not None:
            partners = find_images(lq)
            self._lq, alone = pair_up(found, partners)
            self.skipped.update(partners.skipped)
            for path in alone:
                self.skipped.add("without partner", path)

    @property
    def counts(self) -> list[int]:
        return [len(self._gt)]

    def read(self, shard: int, index: int) -> Sample:
        of_lq, of_gt = self._channels
        return Sample(
            _decoded(self._gt[index], of_gt),
            _decoded(self._lq[index], of_lq) if self._lq else None,
        )

    def name(self, shard: int, index: int) -> str:
        return printable(self._gt[index])

    def notes(self) -> list[str]:
        """State how many images lose their alpha channel, by the headers of at most CHECKED files of each side."""
        sides = zip(("lq", "gt"), (self._lq, self._gt), self._channels, strict=True)
        rows = [(side, paths[:: -(-len(paths) // CHECKED)]) for side, paths, n in sides if paths and n in (1, 3)]
        found = [(side, len(paths), [path for path in paths if has_alpha(path)]) for side, paths in rows]
        return [
            f"{len(alpha)} of {checked} {side} images that were checked have an alpha channel, which is dropped (such"
            f" as {printable(alpha[0])}); composite them first, or train a network of 4 channels"
            for side, checked, alpha in found
            if alpha
        ]


def _decoded(path: Path, channels: int) -> np.ndarray:
    name = printable(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(name, error.strerror or str(error)) from None
    return decode(data, channels=channels, name=name)
