"""Plain image files as a source."""

import re
from pathlib import Path

from sr.data.paths import image_paths
from sr.data.source import Sample
from sr.errors import UserError
from sr.images import read_rgb


class FolderSource:
    """Images as they lie: one shard, each file one sample, decoded whole for every crop.

    gt, lq: folders, globs or files (`package:skimage/data/coffee.png` for one inside a package). With `lq` the
    files are pairs by name without suffix; the lq's name may end in x2, _x4 and the like.
    Large photographs are better cut by `sr shard` first: decoding 2 megapixels costs 50 times a crop of 256.
    """

    def __init__(self, *, gt: str | list[str], lq: str | list[str] | None = None) -> None:
        self._gt = image_paths(gt)
        self._lq = pair_up(self._gt, image_paths(lq)) if lq is not None else None

    @property
    def counts(self) -> list[int]:
        return [len(self._gt)]

    def read(self, shard: int, index: int) -> Sample:
        return Sample(read_rgb(self._gt[index]), read_rgb(self._lq[index]) if self._lq else None)

    def name(self, shard: int, index: int) -> str:
        return str(self._gt[index])


def pair_up(gt: list[Path], lq: list[Path]) -> list[Path]:
    """The lq file of each gt file: same stem, or that and x<scale>. Raises UserError naming the first without."""
    known: dict[str, Path] = {}
    for path in lq:
        for stem in {path.stem, re.sub(r"[-_. ]?x\d+$", "", path.stem)}:
            known.setdefault(stem, path)
    known.update({path.stem: path for path in lq})
    for path in gt:
        if path.stem not in known:
            raise UserError(f"{path} has no partner among the {len(lq)} lq images; add it or remove the image")
    if len({path.stem for path in gt}) < len(gt):
        raise UserError("two gt images of a paired folder have the same name, so their lq cannot be told; rename one")
    return [known[path.stem] for path in gt]
