"""Image databases that BasicSR's scripts write (LMDB) as a source."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from sr.core.errors import UserError
from sr.core.paths import expanded
from sr.data.codecs import decode
from sr.data.pairs import pair_up
from sr.data.paths import Images
from sr.data.source import Sample
from sr.images import ImageError
from sr.images.listing import Skipped, printable


class LmdbSource:
    """Images in LMDB folders of BasicSR, read in place. Needs the package lmdb.

    gt, lq: folders with `data.mdb` and `meta_info.txt`, whose lines start with a file name (`0001_s001.png`). The name
    without suffix is the key. With `lq` the images are pairs by name (see `sr.data.pairs`); an lq image without a gt
    image is skipped and counted.
    channels: of lq and of gt, see `sr.images.read_pixels`.
    """

    def __init__(self, *, gt: str, lq: str = "", channels: tuple[int, int] = (3, 3)) -> None:
        self._folders, self._channels = [Path(expanded(folder)) for folder in (gt, lq) if folder], channels
        found = [_keys(folder) for folder in self._folders]
        self._keys, self.skipped = [found[0].keys], Skipped()
        if lq:
            partners, alone = pair_up(*found)
            self._keys.append([str(partner) for partner in partners])
            for key in alone:
                self.skipped.add("without partner", key)

    @property
    def counts(self) -> list[int]:
        return [len(self._keys[0])]

    def read(self, shard: int, index: int) -> Sample:
        images = [
            decode(self._bytes(side, index), channels=channels, name=self._name(side, index))
            for side, channels in zip(range(len(self._keys)), self._channels[::-1], strict=False)
        ]
        return Sample(*images)

    def name(self, shard: int, index: int) -> str:
        return self._name(0, index)

    def _name(self, side: int, index: int) -> str:
        return f"{printable(self._folders[side])}: {printable(self._keys[side][index])}"

    def _bytes(self, side: int, index: int) -> bytes:
        import lmdb

        try:
            with _opened(str(self._folders[side].resolve())).begin() as transaction:
                data: bytes | None = transaction.get(self._keys[side][index].encode())
        except lmdb.Error as error:
            raise ImageError(self._name(side, index), str(error)) from None
        if data is None:
            raise ImageError(self._name(side, index), "the database lacks this key of its meta_info.txt")
        return data


@cache
def _opened(folder: str) -> Any:
    """A database, opened once per process: LMDB allows no second time, and no use after a fork."""
    import lmdb

    return lmdb.open(folder, readonly=True, lock=False, readahead=False, meminit=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opened.cache_clear)


def _keys(folder: Path) -> Images:
    """The keys of a database. Raises UserError."""
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise UserError("LMDB data needs the package lmdb; run: pip install lmdb") from None
    try:
        lines = (folder / "meta_info.txt").read_text(encoding="utf-8").splitlines()
        if not (folder / "data.mdb").is_file():
            raise FileNotFoundError("there is no data.mdb")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{printable(folder)} is no LMDB folder of BasicSR ({error}); name the folder that holds data.mdb and"
            " meta_info.txt"
        ) from None
    names = [line.split(" (")[0].strip() for line in lines if line.strip()]
    keys = [os.path.splitext(name)[0] for name in names]
    if not keys:
        raise UserError(f"{printable(folder / 'meta_info.txt')} lists no images; write the database again")
    return Images([Path(key) for key in keys], keys)
