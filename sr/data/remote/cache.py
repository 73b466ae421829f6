"""Remote shards on the local disk: each fetched once a node, ahead of its turn, within a bound.

All processes of a node share the folder, without a leader. `x.part` is locked by who downloads it and gets its name
`x.tar` when it is whole, checked and on the disk; `x.tar` is locked (shared) by all who read from it, and what nobody
reads is removed, longest unused first, where room is needed. A lock ends with its process, so nothing needs mending
after a kill. What no published index names is counted when it first comes; the folder's own `index.json` remembers.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from sr.core.errors import UserError
from sr.data.index import (
    FOLDER_INDEX,
    USUAL,
    Entry,
    MemberNames,
    add_to_folder_index,
    index_of,
    read_folder_index,
    save,
    scan,
)
from sr.data.remote.download import Remote, download, shown, stated_count
from sr.data.remote.transport import CHUNK, size_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OURS = re.compile(r"[0-9a-f]{24}-.*\.(tar|part)")  # nothing else is ever removed
STEP = 64 * CHUNK  # by which a file of unknown size asks for room
AT_ONCE = 8  # shards that a process counts at a time
POLL = 1.0  # seconds between looks at shards that others fetch, or for which there is no room


def default_folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sr" / "shards"
    except RuntimeError:
        raise UserError("there is no home folder to cache remote shards in; give the source a `cache`") from None


class Cache:
    """folder: on a local disk. limit: bytes; exceeded only while shards in use alone are more than that."""

    def __init__(self, folder: Path, *, limit: int, names: MemberNames = USUAL) -> None:
        self._folder, self._limit, self._names = folder, limit, names
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
        """Where it lies when it is here. The same content has the same name, whatever its URL, where that is known."""
        entry = shard.entry
        url = f"{shard.name} {entry.bytes}" if entry and entry.bytes else shard.name
        key = entry.sha256 if entry and entry.sha256 else hashlib.sha256(url.encode()).hexdigest()
        base = re.sub(r"[^\w.-]+", "_", shown(shard.name).rpartition("/")[2].removesuffix(".tar"), flags=re.ASCII)
        return self._folder / f"{key[:24]}-{base[-60:]}.tar"

    def check_room(self, shards: Sequence[Remote], at_once: int) -> None:
        """Raises UserError where the `at_once` largest shards are more than the limit, or than the disk has room for.

        Sizes that no index states are asked of the server, for at most `at_once` shards that are not here yet.
        """
        known = read_folder_index(self._folder, self._names)
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
        """What is known of each shard. Those that no published file counts are fetched, once, and counted."""
        known = read_folder_index(self._folder, self._names)
        found = {shard: shard.entry or known.get(self.path(shard).name) for shard in shards}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            unknown = [shard for shard, entry in found.items() if entry is None]
            if unknown and stated_count(unknown[0].name) is not None:
                stated = dict(zip(unknown, pool.map(stated_count, [shard.name for shard in unknown]), strict=True))
                found |= stated
                new = {self.path(shard).name: entry for shard, entry in stated.items() if entry is not None}
                with self._alone():
                    add_to_folder_index(self._folder, new, self._names)
            unknown = [shard for shard, entry in found.items() if entry is None]
            hidden = not unknown or os.environ.get("RANK", "0") != "0"
            counted = pool.map(self._count, unknown)
            bar = tqdm(counted, desc="fetching shards without index", total=len(unknown), disable=hidden)
            found |= dict(zip(unknown, bar, strict=True))
        return [entry for entry in (found[shard] for shard in shards) if entry is not None]

    def _count(self, shard: Remote) -> Entry:
        path = self.path(shard)
        with self.open(shard):
            entry = index_of(path, self._names).entry
        with self._alone():
            add_to_folder_index(self._folder, {path.name: entry}, self._names)
        return entry

    def expect(self, shards: Sequence[Remote]) -> None:
        """Fetch these, in this order, in the background, and remove none of them. Replaces what was expected before."""
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
        """Whether the shard is here now, or cannot be had: then whoever comes to read it will say so."""
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
        """The whole shard, fetched now if it is not here. It stays while it is open. Raises UserError."""
        file = self._fetched(shard, wait=True)
        assert file is not None
        return file

    def _fetched(self, shard: Remote, *, wait: bool) -> BinaryIO | None:
        """The open shard; with wait=False, None where another process fetches it or there is no room for it yet."""
        path = self.path(shard)
        part = path.with_suffix(".part")
        while True:
            with self._writing():
                here = _opened(path)
                if here is not None:
                    return here
                file: BinaryIO = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
                if _locks(file):
                    if path.exists():  # finished by another, after we looked
                        part.unlink(missing_ok=True)
                    elif _is_at(file, part):  # not removed by another, meanwhile
                        return self._filled(file, part, path, shard, must=wait)
                elif wait:
                    fcntl.flock(file, fcntl.LOCK_SH)  # granted when the other has done or failed; then look again
                _release(file)
                if not wait:
                    return None

    def _filled(self, file: BinaryIO, part: Path, path: Path, shard: Remote, *, must: bool) -> BinaryIO | None:
        """Download into the locked `part` and let it become `path`; None if there is no room and it is no must."""
        by = FOLDER_INDEX if shard.entry else str(self._folder / FOLDER_INDEX)
        try:
            known = shard.entry or read_folder_index(self._folder, self._names).get(path.name) or Entry(0, 0)
            if not self._make_room(file, known.bytes, must=must):
                part.unlink()
                _release(file)
                return None

            def grow(size: int) -> None:
                if size > os.fstat(file.fileno()).st_size:
                    self._make_room(file, size + STEP, must=True)

            size = known.bytes or None
            checksum = download(shard.name, file, size=size, sha256=known.sha256, by=by, grow=grow)
            file.flush()
            os.fsync(file.fileno())
            save(path, replace(scan(part, shown(shard.name), self._names), sha256=checksum))
            with self._alone():  # or a count of what is held might miss both names
                os.replace(part, path)
            fcntl.flock(file, fcntl.LOCK_SH)  # in use from the first moment
            return file
        except BaseException:
            part.unlink(missing_ok=True)
            _release(file)
            raise

    def _make_room(self, file: BinaryIO, size: int, *, must: bool) -> bool:
        """Stretch the (sparse) file to `size`, so that every process counts what it is going to hold."""
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
        """One process at a time changes what the folder holds."""
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
                f"the shard cache {self._folder}: {error.strerror or error}; make room there, or give the source"
                " another `cache`, on a local disk"
            ) from None


def _locks(file: BinaryIO) -> bool:
    """Lock it for this process alone; False where another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(file: BinaryIO) -> None:
    """Closing alone would not unlock it while a fork of this process has it open too."""
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def _opened(path: Path) -> BinaryIO | None:
    """The file, kept from removal while it is open; None if it is not there."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (for the caller to close)
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is_at(file, path):
        file.close()
        return None
    with suppress(OSError):
        os.utime(path)  # by which the longest unused is found
    return file


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _held(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of every file that counts."""
    for file in os.scandir(folder):
        if OURS.fullmatch(file.name):
            with suppress(FileNotFoundError):
                yield file.stat().st_mtime, file.stat().st_size, Path(file.path)


def _removed(path: Path) -> bool:
    """Remove it, unless someone reads or writes it."""
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
    except OSError:  # another user's, say
        return False
    return True
