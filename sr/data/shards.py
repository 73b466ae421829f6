"""Tar shards as a source: any sample with one read, no unpacking, no state."""

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sr.core.errors import UserError
from sr.data.codecs import NPY_MAGIC, decode
from sr.data.index import FOLDER_INDEX, Entry, ShardIndex, count_all, index_of
from sr.data.paths import shard_paths
from sr.data.remote.cache import Cache, default_folder
from sr.data.remote.download import Remote, shown
from sr.data.sampling_order import WINDOW
from sr.data.source import Sample
from sr.images import ImageError

OPEN_SHARDS = 2 * WINDOW  # the one that is read and the one that is fetched


class _Shard(NamedTuple):
    file: BinaryIO
    contents: ShardIndex


class ShardSource:
    """webdataset tars, made by `sr shard` or others.

    path: a folder (its `*.tar`), a file, a glob, a brace pattern such as `train-{000000..000123}.tar`, `list:FILE` with
    one of these a line, or a list of these. Tars that come without an index are read through once, see `sr.data.index`.
    Any of these may be a URL: `http(s)://`, `s3://`, `gs://` or what else fsspec knows; and `pipe:COMMAND` is a shell
    command that writes a tar (`--no-plugins` does not shut it out). Remote shards are fetched whole, ahead of their
    turn, to the folder `cache` (~/.cache/sr/shards), which all processes of a node share and which holds up to
    `cache_gb` (1e9 bytes). The `index.json` that `sr shard` wrote, published beside them, tells their number, sizes and
    checksums; without it each is fetched once before the start.
    channels: of lq and of gt, see `sr.images.read_pixels`.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        cache: str | None = None,
        cache_gb: float = 50.0,
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self._channels = channels
        self._shards = shard_paths(path)
        remote = [shard for shard in self._shards if isinstance(shard, Remote)]
        local = [shard for shard in self._shards if isinstance(shard, Path)]
        counted, self._unsaved = count_all(local)
        entries: list[Entry] = []
        self._cache: Cache | None = None
        if remote:
            self._cache = Cache(Path(cache).expanduser() if cache else default_folder(), limit=int(cache_gb * 1e9))
            entries = self._cache.entries(remote)
            _check_room([entry.bytes for entry in entries], cache_gb)
        here, there = iter(counted), (entry.samples for entry in entries)
        self._counts = [next(there if isinstance(shard, Remote) else here) for shard in self._shards]
        if sum(self._counts) == 0:
            raise UserError(
                f"{_shown(self._shards[0])} holds no images; name shards with members like `key.png` or `key.gt.png`"
            )
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    @property
    def counts(self) -> list[int]:
        return self._counts

    def read(self, shard: int, index: int) -> Sample:
        (gt, gt_size), (lq, lq_size) = self._shard(shard).contents.spans[index].tolist()
        name = self.name(shard, index)
        of_lq, of_gt = self._channels
        return Sample(
            decode(self._bytes(shard, gt, gt_size, name), channels=of_gt, name=name),
            decode(self._bytes(shard, lq, lq_size, name), channels=of_lq, name=name) if lq_size >= 0 else None,
        )

    def name(self, shard: int, index: int) -> str:
        return f"{_shown(self._shards[shard]).rpartition('/')[2]}: {self._shard(shard).contents.keys[index]}"

    def expect(self, shards: Sequence[int]) -> None:
        """The shards whose turn it is and those after them: fetched ahead. Others are let go, so that they may leave
        the cache."""
        if self._cache is not None:
            for shard in set(self._open) - set(shards):
                self._open.pop(shard).file.close()
            remote = [self._shards[shard] for shard in dict.fromkeys(shards) if self._counts[shard]]
            self._cache.expect([shard for shard in remote if isinstance(shard, Remote)])

    def _bytes(self, shard: int, offset: int, size: int, name: str) -> bytes | memoryview:
        """A member; of bare pixels a view of the file, so that only what is cropped is read."""
        file = self._shard(shard).file
        try:
            data = os.pread(file.fileno(), len(NPY_MAGIC), offset)
            if data == NPY_MAGIC:
                ahead = offset % mmap.ALLOCATIONGRANULARITY  # a map starts at a page
                mapped = mmap.mmap(file.fileno(), ahead + size, access=mmap.ACCESS_READ, offset=offset - ahead)
                return memoryview(mapped)[ahead:]
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise ImageError(name, error.strerror or str(error)) from None
        except ValueError:  # there is less to map
            data = b""
        if len(data) != size:
            raise ImageError(name, "the shard is shorter than its index says")
        return data

    def _shard(self, shard: int) -> _Shard:
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)[1].file.close()
            self._open[shard] = self._opened(self._shards[shard], self._counts[shard])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, shard: Path | Remote, count: int) -> _Shard:
        try:
            if isinstance(shard, Remote):
                assert self._cache is not None
                file, tar = self._cache.open(shard), self._cache.path(shard)
            else:
                file, tar = open(shard, "rb"), shard  # noqa: SIM115  (closed when another shard takes its place)
            contents = index_of(tar, self._unsaved.get(tar))
        except OSError as error:
            raise UserError(f"{_shown(shard)}: {error.strerror}; put the shard back") from None
        if len(contents.keys) != count:
            remote = isinstance(shard, Remote)
            where = FOLDER_INDEX if remote else tar.parent / FOLDER_INDEX
            fix = "publish it again" if remote else f"delete that {FOLDER_INDEX} and start afresh"
            raise UserError(f"{_shown(shard)} holds {len(contents.keys)} samples but {where} says {count}; {fix}")
        return _Shard(file, contents)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, which a spawned worker opens for itself."""
        return {**self.__dict__, "_open": OrderedDict()}


def _shown(shard: Path | Remote) -> str:
    return shown(shard.name) if isinstance(shard, Remote) else str(shard)


def _check_room(sizes: Sequence[int], cache_gb: float) -> None:
    """Every process may be reading in one window while the next is fetched: both have to fit."""
    needed = sum(sorted(sizes)[-OPEN_SHARDS:]) / 1e9
    if needed > cache_gb:
        raise UserError(
            f"cache_gb {cache_gb:g} is less than the {needed:.3g} GB of two windows of {WINDOW} shards, the one that is"
            " read and the one that is fetched; raise it or make smaller shards"
        )
