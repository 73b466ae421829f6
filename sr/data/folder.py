"""Plain image files as a source."""

import re
from pathlib import Path

import numpy as np

from sr.core.errors import UserError
from sr.data.codecs import decode
from sr.data.paths import image_paths
from sr.data.source import Sample
from sr.images import ImageError


class FolderSource:
    """Images as they lie: one shard, each file one sample, decoded whole for every crop.

    gt, lq: folders, globs or files (`package:skimage/data/coffee.png` for one inside a package). With `lq` the
    files are pairs by name without suffix; the lq's name may end in x2, _x4 and the like.
    Large photographs are better cut by `sr shard` first: decoding 2 megapixels costs 50 times a crop of 256.
    channels: of lq and of gt, see `sr.images.read_pixels`.
    """

    def __init__(
        self, *, gt: str | list[str], lq: str | list[str] | None = None, channels: tuple[int, int] = (3, 3)
    ) -> None:
        self._gt, self._channels = image_paths(gt), channels
        self._lq = pair_up(self._gt, image_paths(lq)) if lq is not None else None

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
        return str(self._gt[index])


def _decoded(path: Path, channels: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(str(path), error.strerror or str(error)) from None
    return decode(data, channels=channels, name=str(path))


def pair_up(gt: list[Path], lq: list[Path]) -> list[Path]:
    """The lq file of each gt file: same stem, or that and x<scale>. Raises UserError naming the first without.

    (Or the a of each b, at scale 1.)
    """
    known: dict[str, Path] = {}
    for path in lq:
        for stem in {path.stem, re.sub(r"[-_. ]?x\d+$", "", path.stem)}:
            known.setdefault(stem, path)
    known.update({path.stem: path for path in lq})
    for path in gt:
        if path.stem not in known:
            raise UserError(f"{path} has no partner among the {len(lq)} images to pair it with; add it or remove this")
    if len({path.stem for path in gt}) < len(gt):
        raise UserError("two images of a paired folder have the same name, so their partners are unknown; rename one")
    return [known[path.stem] for path in gt]
