"""WebDataset-format tar shards as a source: random access without unpacking."""

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

from pydantic import Field
from torch.utils.data import get_worker_info

from sr.core.errors import UserError
from sr.core.paths import expanded
from sr.data.codecs import NPY_MAGIC, decode
from sr.data.counts import Counts
from sr.data.index import FOLDER_INDEX, UNCOUNTED, Choice, Entry, ShardIndex
from sr.data.paths import shard_paths
from sr.data.remote.cache import Cache, default_folder
from sr.data.remote.download import Catalog, Remote, shown
from sr.data.remote.transport import PIPE
from sr.data.sampling_order import WINDOW
from sr.data.scan import count_all, index_of
from sr.data.source import Sample
from sr.data.where import EVERYTHING, Where
from sr.distributed import comm
from sr.images import ImageError
from sr.images.listing import Skipped, printable

Window = Annotated[int, Field(ge=1)]


class _Shard(NamedTuple):
    file: BinaryIO
    contents: ShardIndex


class ShardSource:
    """WebDataset-format tars, local or remote.

    path: a folder (its `*.tar`), a file, a glob, a brace pattern such as `train-{000000..000123}.tar`, `list:FILE` with
    one of these per line, or a list of these. Tars without an index are scanned once, see `sr.data.index`. Each may be
    a URL: `http(s)://`, `s3://`, `gs://` or any protocol of fsspec. `pipe:COMMAND` is a shell command that writes a tar
    (`--no-plugins` does not refuse it).
    cache, cache_gb: remote shards are downloaded whole, ahead of their use, to this folder (~/.cache/sr/shards), up to
    this size (1e9 bytes). All processes of a node share it. Counts, sizes and checksums come from the `index.json` of
    `sr shard` or `sr index`, published with the shards; counts also from timm's `_info.json`, a shard list of wids,
    img2dataset's `NNNNN_stats.json`, or webshart's `NNNNN.json`. Other shards are counted when their window is read.
    index: the file or URL that `sr index` wrote for remote shards, where it cannot be published next to them. An HTTP
    folder in `path` stands for all tars in it.
    read: `blocks` reads tars that are larger than 64 MB by ranges of about that size, each a shard of its own in the
    order and in the cache. It needs the index of `sr index`. Another value gives another order of samples.
    gt, lq: the members of a sample to read, by what follows the key and its dot (`gt: image.jpg` for `k.image.jpg`).
    Default: `k.png` or `k.gt.png`, and `k.lq.png`, in any image format.
    where: conditions on samples, such as {min_side: 512, json: "aesthetic > 5"}; see `sr.data.where.Where`. Published
    counts do not fit a subset, so remote shards are counted when their window is read.
    window: number of shards that are read from at a time; samples are shuffled within a window. The cache must hold two
    windows. Another value gives another order of samples.
    channels: of lq and of gt, see `sr.images.read_pixels`.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        cache: str | None = None,
        cache_gb: float = 50.0,
        index: str = "",
        read: Literal["whole", "blocks"] = "whole",
        gt: str = "",
        lq: str = "",
        where: Where = EVERYTHING,
        window: Window = WINDOW,
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self._channels, self.window, self.skipped = channels, window, Skipped()
        self._choice = Choice(gt, lq, where)
        self._folder = _cache_folder(cache)
        self._shards = shard_paths(path, Catalog(lambda: self._folder, expanded(index)), self.skipped)
        if read == "blocks":
            self._shards = [block for shard in self._shards for block in _blocks(shard)]
        if where != EVERYTHING:
            self._shards = [_uncounted(shard) for shard in self._shards]
        entries, self._unsaved = count_all([s for s in self._shards if isinstance(s, Path)], self._choice)
        self._cache: Cache | None = None
        remote = [shard for shard in self._shards if isinstance(shard, Remote)]
        fetched = self._known(remote, cache_gb) if remote else []
        here, there = iter(entries), iter(fetched)
        self._entries = [next(there if isinstance(shard, Remote) else here) for shard in self._shards]
        self._counts = self._counted([entry.samples for entry in self._entries])
        _add_skipped(self.skipped, self._entries)
        if isinstance(self._counts, list) and sum(self._counts) == 0:
            skipped = f" ({self.skipped})" if self.skipped.total else ""
            relax = "" if where == EVERYTHING else ", or relax data.source.where"
            raise UserError(
                f"{_shown(self._shards[0])} holds no images{skipped}; name shards with members like `key.png` or"
                f" `key.gt.png`, or the member to take by data.source.gt (gt: image.jpg){relax}"
            )
        self._reported = False
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def _known(self, remote: list[Remote], cache_gb: float) -> list[Entry]:
        """Open the cache, check its room, and return what is known of the shards."""
        self._cache = Cache(self._folder, limit=int(cache_gb * 1e9), choice=self._choice)
        self._cache.check_room(remote, 2 * self.window)
        entries = self._cache.entries(remote)
        self._cache.check_room([s._replace(entry=e) for s, e in zip(remote, entries, strict=True)], 2 * self.window)
        return entries

    def _counted(self, known: list[int]) -> list[int] | Counts:
        if UNCOUNTED not in known:
            return known
        stated = [
            (shard.entry.samples if shard.entry else UNCOUNTED) if isinstance(shard, Remote) else count
            for shard, count in zip(self._shards, known, strict=True)
        ]
        return Counts(stated, known, self._count)

    def _count(self, shards: list[int], soon: bool) -> list[int]:
        assert self._cache is not None
        remote = [shard for number in shards if isinstance(shard := self._shards[number], Remote)]
        entries = self._cache.count(remote, soon=soon)
        worker = get_worker_info()
        if not self._reported and comm.is_main() and (worker is None or worker.id == 0):
            _add_skipped(skipped := Skipped(), entries)
            samples = sum(entry.samples for entry in entries)
            print(
                f"data: {'; '.join(filter(None, (f'{samples} samples in {len(entries)} shards', str(skipped))))}",
                flush=True,
            )
        self._reported = True
        return [entry.samples for entry in entries]

    @property
    def counts(self) -> Sequence[int]:
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
        key = printable(self._shard(shard).contents.keys[index])
        return f"{_shown(self._shards[shard]).rpartition('/')[2]}: {key}"

    def expect(self, shards: Sequence[int]) -> None:
        """Download these shards ahead of their use; close the others, so that they may be removed from the cache."""
        if self._cache is not None:
            for shard in set(self._open) - set(shards):
                self._open.pop(shard).file.close()
            remote = [self._shards[shard] for shard in dict.fromkeys(shards) if self._entries[shard].samples]
            self._cache.expect([shard for shard in remote if isinstance(shard, Remote)])

    def _bytes(self, shard: int, offset: int, size: int, name: str) -> bytes | memoryview:
        """Read a member; map an npy member, so that only the rows of a crop are read."""
        file = self._shard(shard).file
        try:
            data = os.pread(file.fileno(), len(NPY_MAGIC), offset)
            if data == NPY_MAGIC:
                ahead = offset % mmap.ALLOCATIONGRANULARITY  # a mapping starts at a page
                mapped = mmap.mmap(file.fileno(), ahead + size, access=mmap.ACCESS_READ, offset=offset - ahead)
                return memoryview(mapped)[ahead:]
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise ImageError(name, error.strerror or str(error)) from None
        except ValueError:  # the file is shorter
            data = b""
        if len(data) != size:
            raise ImageError(name, "the shard is shorter than its index states")
        return data

    def _shard(self, shard: int) -> _Shard:
        if shard not in self._open:
            if len(self._open) >= 2 * self.window:  # the window being read and the next one
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
                file, tar = open(shard, "rb"), shard  # noqa: SIM115  (closed by `_shard` or `expect`)
            contents = self._unsaved.get(tar) or index_of(tar, self._choice)
        except OSError as error:
            raise UserError(f"{_shown(shard)}: {error.strerror}; restore the shard") from None
        if len(contents.keys) != count:
            remote = isinstance(shard, Remote)
            where = FOLDER_INDEX if remote else tar.parent / FOLDER_INDEX
            fix = "publish it again" if remote else f"delete that {FOLDER_INDEX} and start again"
            raise UserError(f"{_shown(shard)} holds {len(contents.keys)} samples but {where} states {count}; {fix}")
        return _Shard(file, contents)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the open files; a spawned worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}


def _blocks(shard: Path | Remote) -> list[Path | Remote]:
    """The blocks of a remote tar, as shards; a local or small tar itself. Raises UserError if they are unknown."""
    if isinstance(shard, Path) or shard.name.startswith(PIPE):
        return [shard]
    if shard.entry is None:
        raise UserError(
            f"{_shown(shard)} has no index, so its blocks are unknown; write one by `sr index` and name it by"
            " data.source.index, or set data.source.read: whole"
        )
    return [Remote(shard.name, Entry(samples, size), start) for start, size, samples in shard.entry.blocks] or [shard]


def _add_skipped(skipped: Skipped, entries: Sequence[Entry]) -> None:
    for entry in entries:
        for reason, count, example in entry.others:
            skipped.add(reason, example, count)


def _uncounted(shard: Path | Remote) -> Path | Remote:
    """A remote shard without its published count, which does not hold for a subset of its samples."""
    if isinstance(shard, Path) or shard.entry is None:
        return shard
    return shard._replace(entry=shard.entry._replace(samples=UNCOUNTED, others=()))


def _cache_folder(given: str | None) -> Path:
    return Path(expanded(given)) if given else default_folder()


def _shown(shard: Path | Remote) -> str:
    return shown(shard.name) if isinstance(shard, Remote) else printable(shard)
