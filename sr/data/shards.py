"""Tar shards as a source: any sample with one read, no unpacking, no state."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sr.data.index import FOLDER_INDEX, ShardIndex, count_all, index_of
from sr.data.paths import expand
from sr.data.source import Sample
from sr.errors import UserError
from sr.images import ImageError, read_rgb

OPEN_SHARDS = 32  # two windows of sr.data.order.Order


class _Shard(NamedTuple):
    file: BinaryIO
    contents: ShardIndex


class ShardSource:
    """webdataset tars, made by `sr shard` or others.

    path: a folder (its `*.tar`), a file, a glob, a brace pattern such as `train-{000000..000123}.tar`, or a list of
    these. Tars that come without an index are read through once, see `sr.data.index`.
    """

    def __init__(self, *, path: str | list[str]) -> None:
        self._tars = expand(path, lambda folder: sorted(folder.glob("*.tar")), "tar shards")
        self._counts, self._unsaved = count_all(self._tars)
        if sum(self._counts) == 0:
            raise UserError(f"{path} holds no images; name shards with members like `key.png` or `key.gt.png`")
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    @property
    def counts(self) -> list[int]:
        return self._counts

    def read(self, shard: int, index: int) -> Sample:
        (gt, gt_size), (lq, lq_size) = self._shard(shard).contents.spans[index].tolist()
        name = self.name(shard, index)
        return Sample(
            read_rgb(self._bytes(shard, gt, gt_size, name), name=name),
            read_rgb(self._bytes(shard, lq, lq_size, name), name=name) if lq_size >= 0 else None,
        )

    def name(self, shard: int, index: int) -> str:
        return f"{self._tars[shard].name}: {self._shard(shard).contents.keys[index]}"

    def _bytes(self, shard: int, offset: int, size: int, name: str) -> bytes:
        try:
            data = os.pread(self._shard(shard).file.fileno(), size, offset)
        except OSError as error:
            raise ImageError(name, error.strerror or str(error)) from None
        if len(data) != size:
            raise ImageError(name, "the shard is shorter than its index says")
        return data

    def _shard(self, shard: int) -> _Shard:
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)[1].file.close()
            self._open[shard] = self._opened(self._tars[shard], self._counts[shard])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, tar: Path, count: int) -> _Shard:
        try:
            contents = index_of(tar, self._unsaved.get(tar))
            file = open(tar, "rb")  # noqa: SIM115  (stays open, closed when another shard takes its place)
        except OSError as error:
            raise UserError(f"{tar}: {error.strerror}; put the shard back") from None
        if len(contents.keys) != count:
            raise UserError(
                f"{tar} holds {len(contents.keys)} samples but {tar.parent / FOLDER_INDEX} says {count};"
                " delete that index.json and start afresh"
            )
        return _Shard(file, contents)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, which a spawned worker opens for itself."""
        return {**self.__dict__, "_open": OrderedDict()}
