"""Remote shards: found by the index that is published with them, and downloaded with retries and checksums."""

import fnmatch
import glob
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.data.index import FOLDER_INDEX, MALFORMED, Choice, Entry, parse_counts
from sr.data.remote.transport import (
    CHUNK,
    PIPE,
    Body,
    FileChanged,
    PermanentError,
    TransientError,
    is_http,
    is_remote,
    listing,
    open_at,
    scrub,
    transport_errors,
)
from sr.data.scan import COMPRESSED_SUFFIXES, compressed, from_listing
from sr.data.where import EVERYTHING
from sr.distributed.watchdog import LOST

T = TypeVar("T")
TRIES = 8  # in a row that together receive less than a chunk
TRIES_WITH_COPY = 3  # for an index of which an earlier run kept a copy
AT_ONCE = 8  # requests and downloads of one process at a time
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds, doubled after each try: a minute for 8 tries


class Unreachable(UserError):
    """A remote file cannot be downloaded: retries do not help, or all of them failed.

    cause: the reason alone. permanent: retries do not help; otherwise the exit code lets a scheduler start the run
    again. absent: the file does not exist.
    """

    cause = ""
    permanent = absent = False


class Remote(NamedTuple):
    """A remote shard. name: a URL, or `pipe:` and a command. entry: its entry in the index of its folder.

    start: None for a whole tar; else the shard is the block of `entry.bytes` bytes that starts there.
    """

    name: str
    entry: Entry | None = None
    start: int | None = None


class Catalog:
    """Indexes and listings of remote folders, requested once per run.

    The answers are also saved in `folder()`, so that cached shards can be read while the server is down. file: an index
    file or URL for all folders, whose own indexes are not requested then.
    """

    def __init__(self, folder: Callable[[], Path], file: str = "") -> None:
        self._folder, self._known, self.file = folder, dict[str, Any](), file

    def index(self, folder: str, query: str) -> dict[str, Entry] | None:
        """The index of a remote folder; None where it has none. Raises UserError."""
        if self.file:
            if self.file not in self._known:
                self._known[self.file] = _given_index(self.file)
            given: dict[str, Entry] = self._known[self.file]
            return given
        rows = self._asked(f"{folder} {query}", shown(folder), lambda tries: _index(folder, query, tries))
        if rows is None:
            return None
        return {name: Entry.parse(*row) for name, row in rows.items()}

    def listed(self, pattern: str) -> list[str]:
        """The URLs that a glob matches. Raises UserError."""
        found: list[str] = self._asked(f"glob {pattern}", shown(pattern), lambda tries: listed(pattern, tries))
        return found

    def _asked(self, key: str, name: str, ask: Callable[[int], Any]) -> Any:
        if key not in self._known:
            file = self._folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.known.json"
            saved = _saved(file)
            try:
                answer = ask(TRIES if saved is None else TRIES_WITH_COPY)
            except Unreachable as error:
                if error.absent or saved is None:
                    raise
                print(f"{error}; using the index of {name} that an earlier run saved", file=sys.stderr, flush=True)
                answer = saved[0]
            with suppress(OSError), replacing(file) as copy:  # without the copy the next start needs the server
                copy.write_text(json.dumps([answer]), encoding="utf-8")
            self._known[key] = answer
        return self._known[key]


def _saved(file: Path) -> list[Any] | None:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list) and len(content) == 1:
            return content
    return None


def shown(name: str) -> str:
    """The name for messages: no user, password or query; of a command only its first word and its tars."""
    if not name.startswith(PIPE):
        return scrub(name)
    words = [word for word in name[len(PIPE) :].split() if "=" not in word]
    return PIPE + " ... ".join([*words[:1], *re.findall(r"[\w.-]+\.tar\b", name)])


def find(name: str, catalog: Catalog) -> list[Remote]:
    """Find the shards of a URL: a file, a glob, or a folder (ends in / or has no dot in its last part).

    Raises UserError for compressed tars, and for a folder that has no index and cannot be listed.
    """
    if name.startswith(PIPE):
        return [Remote(name)]
    folder, base, query = split(name)
    tool = COMPRESSED_SUFFIXES.get(os.path.splitext(base.lower())[1])
    if tool:
        raise UserError(f"{compressed(shown(name), tool)} (on the server)")
    if glob.has_magic(folder.partition("://")[2].partition("/")[2]):
        return [_looked_up(hit, catalog) for hit in catalog.listed(name)]
    if base and not glob.has_magic(base):
        return [_looked_up(name, catalog)]
    index = catalog.index(folder, query)
    if index is None or (catalog.file and not is_http(name)):  # a given index may be that of several folders
        return [_looked_up(hit, catalog) for hit in catalog.listed(f"{folder}{base or '*.tar'}{query}")]
    names = fnmatch.filter(sorted(index), base or "*")
    return [Remote(f"{folder}{name}{query}", index[name]) for name in names]


def _looked_up(name: str, catalog: Catalog) -> Remote:
    folder, base, query = split(name)
    entry = (catalog.index(folder, query) or {}).get(base)
    if catalog.file and entry is None:
        raise UserError(f"data.source.index: {shown(catalog.file)} does not list {base}; write it again by `sr index`")
    return Remote(name, entry)


def split(url: str) -> tuple[str, str, str]:
    """Split a URL into folder with slash, base name and ?query."""
    path, mark, query = url.partition("?") if is_http(url) else (url, "", "")
    folder, _, base = path.rpartition("/")
    if folder.endswith(":/") or not ("." in base or glob.has_magic(base)):
        folder, base = path.rstrip("/"), ""
    return f"{folder}/", base, mark + query


def _index(folder: str, query: str, tries: int) -> dict[str, Entry] | None:
    """The published sample counts of a folder: our `index.json`, a shard list of wids, or timm's `_info.json`."""
    for name in (FOLDER_INDEX, "_info.json", "info.json", "wids.json"):
        url = f"{folder}{name}{query}"
        content = fetched(url, tries)
        if content is None:
            continue
        try:
            index = parse_counts(content)
        except ValueError as error:
            if name != FOLDER_INDEX:  # another kind of file, or an HTML page
                continue
            raise UserError(f"{shown(url)} cannot be understood ({error}); publish it again") from None
        strange = next((name for name in index if "/" in name), None)
        if strange is not None:
            raise UserError(f"{shown(url)} names '{strange}', which is not in its folder; publish it again")
        return index
    return None


def _given_index(file: str) -> dict[str, Entry]:
    """The entries in `data.source.index`, by the base names of tars. Raises UserError."""
    try:
        content = fetched(file) if is_remote(file) else Path(file).read_bytes()
        if content is None:
            raise FileNotFoundError(f"there is no {shown(file)}")
        return parse_counts(content)
    except (OSError, ValueError) as error:
        raise UserError(f"data.source.index: {shown(file)} cannot be read ({error}); write it by `sr index`") from None


def stated_counts(names: Sequence[str], choice: Choice) -> list[Entry | None]:
    """The counts in a file next to each shard: `NNNNN_stats.json` of img2dataset, or `NNNNN.json` of webshart.

    None for shards without one; if the first shard has none, no others are requested. Raises UserError.
    """
    for stated in (_by_img2dataset, _by_webshart) if choice.where == EVERYTHING else ():
        first = stated(names[0], choice)
        if first is not None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                return [first, *pool.map(stated, names[1:], repeat(choice))]
    return [None] * len(names)


def _by_img2dataset(name: str, choice: Choice) -> Entry | None:
    content = _next_to(name, "_stats.json")
    with suppress(*MALFORMED):
        return Entry(int(json.loads(content or b"")["successes"]), 0)
    return None


def _by_webshart(name: str, choice: Choice) -> Entry | None:
    return listed_members(name, choice)[0]


def listed_members(name: str, choice: Choice) -> tuple[Entry | None, int]:
    """The entry of a remote tar by webshart's JSON next to it, and the bytes that were read. Raises UserError."""
    content = _next_to(name, ".json") or b""
    with suppress(ValueError):
        return from_listing(content, shown(name), choice).entry, len(content)
    return None, len(content)


def _next_to(name: str, ending: str) -> bytes | None:
    """The file next to a remote tar with another ending; None if there is none."""
    if name.startswith(PIPE):
        return None
    folder, base, query = split(name)
    return fetched(f"{folder}{base.removesuffix('.tar')}{ending}{query}")


def fetched(url: str, tries: int = TRIES) -> bytes | None:
    """Download a small file; None if it does not exist. Raises UserError."""
    content = io.BytesIO()
    try:
        download(url, content, tries=tries)
    except Unreachable as error:
        if error.absent:
            return None
        raise
    return content.getvalue()


def listed(pattern: str, tries: int = TRIES) -> list[str]:
    if is_http(pattern):
        raise UserError(
            f"{shown(pattern)}: HTTP lists no folders, and there is no {FOLDER_INDEX}; publish the one that `sr shard`"
            " writes, or name the shards by a brace pattern or list:FILE"
        )
    return retry(pattern, lambda: listing(pattern), tries=tries)


def download(
    name: str,
    file: BinaryIO,
    *,
    size: int | None = None,
    sha256: str = "",
    by: str = FOLDER_INDEX,
    grow: Callable[[int], None] = lambda size: None,
    tries: int | None = None,
    resume: bool = False,
    start: int | None = None,
) -> str:
    """Download a remote file into `file` (open for writing) and return its SHA-256 in hex.

    A broken connection is retried (see `retry`). The transfer resumes where it broke if the server supports ranges and
    the file is known to be unchanged.

    Args:
        size, sha256: the expected values, if known.
        by: the file that states them, for error messages.
        grow: called with the new size before the file grows.
        tries: instead of TRIES.
        resume: `file` is open for reading too and holds the start of an earlier download; needs `sha256`.
        start: download only the `size` bytes from there.
    """
    transfer = _Transfer(name, file, size, sha256, by, grow, start)
    if resume:
        transfer.resume()
    return retry(name, transfer.attempt, transfer, tries=tries)


def retry(name: str, attempt: Callable[[], T], transfer: "_Transfer | None" = None, *, tries: int | None = None) -> T:
    """Call `attempt` until it succeeds, with exponential backoff.

    Raises Unreachable at once after a PermanentError, and after `tries` attempts without progress (a minute for TRIES).
    """
    failed = reached = 0
    tries = tries or TRIES
    while True:
        try:
            return attempt()
        except PermanentError as error:
            failure = Unreachable(f"{shown(name)}: {error.cause}; {error.fix}")
            failure.cause, failure.permanent, failure.absent = error.cause, True, error.absent
            raise failure from None
        except TransientError as error:
            if transfer and transfer.furthest >= reached + CHUNK:
                failed, reached = 0, transfer.furthest
            failed += 1
            if failed == tries:
                failure = Unreachable(
                    f"{shown(name)}: {error} ({tries} tries); check the server and the network, then run this again"
                )
                failure.cause, failure.exit_code = str(error), LOST
                raise failure from None
            wait = backoff(name, failed)
            print(f"{shown(name)}: {error}; retrying in {wait:.1f} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def backoff(name: str, failed: int) -> float:
    """Seconds before the next try: FIRST_WAIT, doubled up to LONGEST_WAIT, times 0.5 to 1.5.

    The factor is a function of file, rank and try: runs are repeatable, and nodes do not retry at the same time.
    """
    key = f"{name} {os.environ.get('RANK', '0')} {failed}".encode()
    draw = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    return float(min(FIRST_WAIT * 2.0 ** (failed - 1), LONGEST_WAIT) * (0.5 + draw))


class _Transfer:
    """The download of one file. done: bytes in `file`; furthest: the largest value of `done` so far."""

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        size: int | None,
        sha256: str,
        by: str,
        grow: Callable[[int], None],
        start: int | None = None,
    ) -> None:
        self._name, self._file, self._grow, self._start = name, file, grow, start
        self._size, self._sha256, self._by = size, sha256, by
        self._tag = self._wrong = ""
        self.furthest = 0
        self._restart()

    def _restart(self) -> None:
        self._file.seek(0)  # without truncating: the file reserves its space in the cache
        self._done, self._digest, self._tag = 0, hashlib.sha256(), ""

    def resume(self) -> None:
        """Take what `file` holds as received. If it is damaged, the checksum differs and the download restarts."""
        while chunk := self._file.read(CHUNK):
            self._digest.update(chunk)
            self._done += len(chunk)
        self.furthest = self._done

    def attempt(self) -> str:
        """Download from where the last attempt stopped. Raises TransientError and PermanentError."""
        if not self._tag and not self._sha256:
            self._restart()  # nothing identifies the file, so it may have changed
        try:
            first, stop = self._done, None
            if self._start is not None:
                assert self._size is not None
                first, stop = self._start + self._done, self._start + self._size
            body = open_at(self._name, first, self._tag, stop)
        except FileChanged:
            self._restart()
            raise
        try:
            if body.start != first:
                self._restart()
            self._receive(body)
        finally:
            with suppress(Exception):  # closing a broken connection may fail
                body.close()
        return self._checked()

    def _receive(self, body: Body) -> None:
        total = body.size if self._size is None else self._size
        if self._start is None and body.size not in (None, total):
            raise TransientError(f"the server has {body.size} bytes, but {self._by} states {total}")
        self._tag = body.tag
        while total is None or self._done < total:
            with transport_errors():
                chunk = body.read(CHUNK)
            if not chunk:
                break
            self._grow(self._done + len(chunk))
            self._file.write(chunk)
            self._digest.update(chunk)
            self._done += len(chunk)
            self.furthest = max(self.furthest, self._done)
        if total is not None and self._done != total:
            came = self._done
            if came > total:
                self._restart()
            raise TransientError(f"received {came} of {total} bytes")

    def _checked(self) -> str:
        found = self._digest.hexdigest()
        if self._sha256 and found != self._sha256:
            self._restart()
            cause = f"the SHA-256 differs from {self._by}"
            if found == self._wrong:
                raise PermanentError(
                    f"{cause}, twice with the same value", f"publish the shard again or correct {self._by}"
                )
            self._wrong = found
            raise TransientError(cause)
        self._file.truncate(self._done)
        return found
