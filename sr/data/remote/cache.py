"""Local cache of remote shards: each is downloaded once per node, ahead of its use, within a size limit.

All processes of a node share the folder, without a leader. The process that downloads `x.part` locks it, and renames it
to `x.tar` after checksum and fsync. Readers hold a shared lock on `x.tar`; when space is needed, shards without readers
are removed, least recently used first. The kernel releases the locks of a killed process, so no clean-up is needed.
Shards without a published count are counted when their window comes (`sr.data.counts`); `index.json` in the cache keeps
the counts.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sr.core.cache_folder import cache_folder
from sr.core.errors import UserError
from sr.data.index import (
    FOLDER_INDEX,
    UNCOUNTED,
    USUAL,
    Choice,
    Entry,
    add_to_folder_index,
    read_folder_index,
    save,
)
from sr.data.remote.download import AT_ONCE, Remote, download, shown, stated_counts
from sr.data.remote.ranges import scan_remote
from sr.data.remote.transport import CHUNK, PIPE, size_of
from sr.data.scan import index_of, scan

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OURS = re.compile(r"[0-9a-f]{24}-.*\.(tar|part)")  # no other file is ever removed
STEP = 64 * CHUNK  # by which a file of unknown size grows
POLL = 1.0  # seconds between checks of shards that other processes download or that do not fit yet


def default_folder() -> Path:
    try:
        return cache_folder("shards")
    except RuntimeError:
        raise UserError("there is no home folder for the cache of remote shards; set data.source.cache") from None


class Cache:
    """The shard cache of a node.

    Args:
        folder: on a local disk.
        limit: bytes. Exceeded only while the shards in use alone are larger.
        choice: the samples and members that are indexed.
    """

    def __init__(self, folder: Path, *, limit: int, choice: Choice = USUAL) -> None:
        self._folder, self._limit, self._choice = folder, limit, choice
        self._coming: tuple[Remote, ...] = ()
        if fcntl is None:
            raise UserError(
                "remote shards need POSIX file locks, which this system lacks; download them and give the folder"
            )
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                pass

    def path(self, shard: Remote) -> Path:
        """The file of a shard in the cache. With a known checksum, equal content has an equal name for any URL."""
        entry = shard.entry
        url = f"{shard.name} {entry.bytes}" if entry and entry.bytes else shard.name
        url += "" if shard.start is None else f" {shard.start}"
        key = entry.sha256 if entry and entry.sha256 else hashlib.sha256(url.encode()).hexdigest()
        base = re.sub(r"[^\w.-]+", "_", shown(shard.name).rpartition("/")[2].removesuffix(".tar"), flags=re.ASCII)
        return self._folder / f"{key[:24]}-{base[-60:]}.tar"

    def check_room(self, shards: Sequence[Remote], at_once: int) -> None:
        """Raise UserError if the `at_once` largest shards exceed the limit or the free space of the disk.

        Sizes that no index states are requested from the server, for at most `at_once` shards that are not cached.
        """
        known = read_folder_index(self._folder, self._choice)
        sizes, unknown = [], []
        for shard in shards:
            size = (shard.entry or Entry(0, 0)).bytes or known.get(self.path(shard).name, Entry(0, 0)).bytes
            if size:
                sizes.append(size)
            elif not self.path(shard).exists():
                unknown.append(shard.name)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sizes += pool.map(size_of, unknown[:at_once])
        needed, limit = sum(sorted(sizes)[-at_once:]), self._limit
        both = f"two windows of {at_once // 2} shards, the one that is read and the one that is fetched,"
        if needed > limit:
            raise UserError(
                f"{both} are {needed / 1e9:.3g} GB, and cache_gb {limit / 1e9:g} is less than that; raise cache_gb or"
                " lower data.source.window"
            )
        with self._writing():
            free = shutil.disk_usage(self._folder).free + sum(size for _, size, _ in _held(self._folder))
        if needed > free:
            raise UserError(
                f"{both} are {needed / 1e9:.3g} GB; the shard cache {self._folder} has room for {free / 1e9:.3g} GB:"
                " make room, set data.source.cache to another disk, or lower data.source.window"
            )

    def entries(self, shards: Sequence[Remote]) -> list[Entry]:
        """Return what is known of each shard without reading it: published, or counted by an earlier run."""
        known = read_folder_index(self._folder, self._choice)
        found = [
            shard.entry
            if shard.entry and shard.entry.samples != UNCOUNTED
            else known.get(self.path(shard).name) or shard.entry or Entry(UNCOUNTED, 0)
            for shard in shards
        ]
        missing = [shard for shard, entry in zip(shards, found, strict=True) if entry.samples == UNCOUNTED]
        if missing:
            entries = stated_counts([shard.name for shard in missing], self._choice)
            stated = dict(zip(missing, entries, strict=True))
            self._keep({shard: entry for shard, entry in stated.items() if entry is not None})
            found = [stated.get(shard) or entry for shard, entry in zip(shards, found, strict=True)]
        return found

    def count(self, shards: Sequence[Remote], *, soon: bool) -> list[Entry]:
        """Count the samples of shards: `soon` by downloading them, since they are read next, else by their headers."""

        def counted(shard: Remote) -> Entry:
            if not soon and not shard.name.startswith(PIPE) and not self.path(shard).exists():
                return scan_remote(shard, self._choice)[0]
            with self.open(shard):
                return index_of(self.path(shard), self._choice).entry

        known = read_folder_index(self._folder, self._choice)  # another process may have counted them meanwhile
        found = {shard: known.get(self.path(shard).name) for shard in shards}
        missing = [shard for shard, entry in found.items() if entry is None]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            new = dict(zip(missing, pool.map(counted, missing), strict=True))
        self._keep(new)
        return [found[shard] or new[shard] for shard in shards]

    def _keep(self, entries: Mapping[Remote, Entry]) -> None:
        with self._alone():
            new = {self.path(shard).name: entry._replace(blocks=()) for shard, entry in entries.items()}
            add_to_folder_index(self._folder, new, self._choice)

    def expect(self, shards: Sequence[Remote]) -> None:
        """Download these shards in the background, in this order, and keep them. Replaces the previous list."""
        self._coming = coming = tuple(shards)
        if not all(self.path(shard).exists() for shard in coming):
            threading.Thread(target=self._fetch_ahead, args=(coming,), name="shards ahead", daemon=True).start()

    def _fetch_ahead(self, coming: tuple[Remote, ...]) -> None:
        missing = list(coming)
        while missing and self._coming is coming:
            missing = [shard for shard in missing if self._coming is coming and not self._is_settled(shard)]
            if missing:
                time.sleep(POLL)

    def _is_settled(self, shard: Remote) -> bool:
        """Whether the shard is cached, or cannot be downloaded; its reader then raises the error."""
        if self.path(shard).exists():
            return True
        try:
            file = self._fetched(shard, wait=False)
        except UserError:
            return True
        if file is not None:
            file.close()
        return file is not None

    def open(self, shard: Remote) -> BinaryIO:
        """Open a shard, downloading it if needed. It is not removed while it is open. Raises UserError."""
        file = self._fetched(shard, wait=True)
        assert file is not None
        return file

    def _fetched(self, shard: Remote, *, wait: bool) -> BinaryIO | None:
        """The open shard; with wait=False, None if another process downloads it or it does not fit yet."""
        path = self.path(shard)
        part = path.with_suffix(".part")
        while True:
            with self._writing():
                here = _opened(path)
                if here is not None:
                    return here
                file: BinaryIO = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
                if _locks(file):
                    if path.exists():  # another process finished it after `_opened`
                        part.unlink(missing_ok=True)
                    elif _is_at(file, part):  # not removed by another process meanwhile
                        return self._filled(file, part, path, shard, must=wait)
                elif wait:
                    fcntl.flock(
                        file, fcntl.LOCK_SH
                    )  # granted when the other process succeeded or failed; then check again
                _release(file)
                if not wait:
                    return None

    def _filled(self, file: BinaryIO, part: Path, path: Path, shard: Remote, *, must: bool) -> BinaryIO | None:
        """Download into the locked `part` and rename it to `path`; None if it does not fit, unless `must`."""
        by = FOLDER_INDEX if shard.entry else str(self._folder / FOLDER_INDEX)
        try:
            known = shard.entry or read_folder_index(self._folder, self._choice).get(path.name) or Entry(0, 0)
            if not self._make_room(file, known.bytes, must=must):
                part.unlink()
                _release(file)
                return None

            def grow(size: int) -> None:
                if size > os.fstat(file.fileno()).st_size:
                    self._make_room(file, size + STEP, must=True)

            size, start = known.bytes or None, shard.start
            checksum = download(shard.name, file, size=size, sha256=known.sha256, by=by, grow=grow, start=start)
            file.flush()
            os.fsync(file.fileno())
            index = scan(part, shown(shard.name), self._choice, block=start is not None)
            save(path, replace(index, sha256=checksum))
            with self._alone():  # or the sum of sizes could miss both names
                os.replace(part, path)
            fcntl.flock(file, fcntl.LOCK_SH)  # in use from the start
            return file
        except BaseException:
            part.unlink(missing_ok=True)
            _release(file)
            raise

    def _make_room(self, file: BinaryIO, size: int, *, must: bool) -> bool:
        """Extend the (sparse) file to `size`, so that every process counts its final size."""
        with self._alone():
            held = sorted(_held(self._folder))
            excess = sum(length for _, length, _ in held) - os.fstat(file.fileno()).st_size + size - self._limit
            needed = {self.path(shard).name for shard in self._coming}
            for _, length, path in held:
                if excess > 0 and path.name not in needed and _removed(path):
                    excess -= length
            if excess > 0 and not must:
                return False
            os.ftruncate(file.fileno(), size)
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change the folder."""
        with self._writing(), open(self._folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                _release(file)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the shard cache {self._folder}: {error.strerror or error}; free some space, or set"
                " data.source.cache to a folder on another local disk"
            ) from None


def _locks(file: BinaryIO) -> bool:
    """Lock a file exclusively; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(file: BinaryIO) -> None:
    """Unlock and close a file; closing alone does not unlock it while a fork of this process has it open."""
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def _opened(path: Path) -> BinaryIO | None:
    """Open a file with a shared lock, which prevents its removal; None if it does not exist."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (for the caller to close)
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is_at(file, path):
        file.close()
        return None
    with suppress(OSError):
        os.utime(path)  # marks it as recently used
    return file


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _held(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield (time of last use, bytes, path) of every shard in the folder."""
    for file in os.scandir(folder):
        if OURS.fullmatch(file.name):
            with suppress(FileNotFoundError):
                yield file.stat().st_mtime, file.stat().st_size, Path(file.path)


def _removed(path: Path) -> bool:
    """Remove a shard unless a process reads or writes it; return whether it is removed."""
    try:
        with open(path, "r+b") as file:
            if not _locks(file):
                return False
            path.unlink(missing_ok=True)
            for index in path.parent.glob(f"{path.stem}.*index.json"):
                index.unlink(missing_ok=True)
            _release(file)
    except FileNotFoundError:
        pass
    except OSError:  # owned by another user, for example
        return False
    return True
