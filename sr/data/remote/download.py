"""Shards that lie elsewhere: found by the `index.json` beside them, and downloaded whole over lines that break."""

import fnmatch
import glob
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.data.index import COMPRESSED_SUFFIXES, FOLDER_INDEX, Entry, compressed, others_of, parse_folder_index
from sr.data.remote.transport import (
    CHUNK,
    PIPE,
    Body,
    Changed,
    Hopeless,
    Lost,
    is_http,
    listing,
    losses,
    open_at,
    scrub,
)

T = TypeVar("T")
TRIES = 8  # that together bring less than a chunk
TRIES_WITH_COPY = 3  # to ask for an index of which an earlier run kept a copy
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds, doubled from try to try: a minute for 8 tries


class Unreachable(UserError):
    """A remote file that cannot be had, for a reason that waiting does not mend, or after all tries."""

    absent = False


class Remote(NamedTuple):
    """A shard elsewhere. name: a URL, or `pipe:` and a command. entry: what the index of its folder says of it."""

    name: str
    entry: Entry | None = None


class Catalog:
    """What servers say of folders: asked once a run, and kept in `folder()` for a start while the server is down."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder, self._known = folder, dict[str, Any]()

    def index(self, folder: str, query: str) -> dict[str, Entry] | None:
        """The index of a remote folder; None where it has none. Raises UserError."""
        rows = self._asked(f"{folder} {query}", shown(folder), lambda tries: _index(folder, query, tries))
        return (
            None
            if rows is None
            else {
                name: Entry(samples, size, sha256, others_of(others))
                for name, (samples, size, sha256, others) in rows.items()
            }
        )

    def listed(self, pattern: str) -> list[str]:
        """The URLs that a glob matches. Raises UserError."""
        found: list[str] = self._asked(f"glob {pattern}", shown(pattern), lambda tries: _listed(pattern, tries))
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
                print(f"{error}; using the answer of an earlier run for {name}", file=sys.stderr, flush=True)
                answer = saved[0]
            with suppress(OSError), replacing(file) as aside:  # without the copy the next start needs the server
                aside.write_text(json.dumps([answer]), encoding="utf-8")
            self._known[key] = answer
        return self._known[key]


def _saved(file: Path) -> list[Any] | None:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list) and len(content) == 1:
            return content
    return None


def shown(name: str) -> str:
    """What messages call it: without user, password and query, and of a command only its first word and its tars."""
    if not name.startswith(PIPE):
        return scrub(name)
    words = [word for word in name[len(PIPE) :].split() if "=" not in word]
    return PIPE + " ... ".join([*words[:1], *re.findall(r"[\w.-]+\.tar\b", name)])


def find(name: str, catalog: Catalog) -> list[Remote]:
    """The shards behind a URL: a file, a glob, or a folder (it ends in / or its last part has no dot).

    Raises UserError where names are needed and the server has no index and lists no folders, or for compressed tars.
    """
    if name.startswith(PIPE):
        return [Remote(name)]
    folder, base, query = _split(name)
    tool = COMPRESSED_SUFFIXES.get(os.path.splitext(base.lower())[1])
    if tool:
        raise UserError(f"{compressed(shown(name), tool)} (on the server)")
    if glob.has_magic(folder.partition("://")[2].partition("/")[2]):
        return [_looked_up(hit, catalog) for hit in catalog.listed(name)]
    if base and not glob.has_magic(base):
        return [_looked_up(name, catalog)]
    index = catalog.index(folder, query)
    if index is None:
        return [Remote(hit) for hit in catalog.listed(f"{folder}{base or '*.tar'}{query}")]
    names = fnmatch.filter(sorted(index), base or "*")
    return [Remote(f"{folder}{name}{query}", index[name]) for name in names]


def _looked_up(name: str, catalog: Catalog) -> Remote:
    folder, base, query = _split(name)
    return Remote(name, (catalog.index(folder, query) or {}).get(base))


def _split(url: str) -> tuple[str, str, str]:
    """(folder with its slash, base name, ?query)."""
    path, mark, query = url.partition("?") if is_http(url) else (url, "", "")
    folder, _, base = path.rpartition("/")
    if folder.endswith(":/") or not ("." in base or glob.has_magic(base)):
        folder, base = path.rstrip("/"), ""
    return f"{folder}/", base, mark + query


def _index(folder: str, query: str, tries: int) -> dict[str, Entry] | None:
    """The counts that a folder publishes: our `index.json`, a shard list of wids, or timm's `_info.json`."""
    for name in (FOLDER_INDEX, "_info.json", "info.json", "wids.json"):
        url = f"{folder}{name}{query}"
        content = _fetched(url, tries)
        if content is None:
            continue
        try:
            index = parse_counts(content)
        except ValueError as error:
            raise UserError(f"{shown(url)} cannot be understood ({error}); publish it again") from None
        strange = next((name for name in index if "/" in name), None)
        if strange is not None:
            raise UserError(f"{shown(url)} names '{strange}', which is not in its folder; publish it again")
        return index
    return None


def parse_counts(content: bytes) -> dict[str, Entry]:
    """Name of each shard -> Entry, out of any of the files that `_index` knows. Raises ValueError."""
    try:
        parsed = json.loads(content)
        if "shardlist" in parsed:
            rows = [
                (row["url"].rpartition("/")[2], row["nsamples"], row.get("filesize", 0)) for row in parsed["shardlist"]
            ]
        elif "splits" in parsed:
            splits = parsed["splits"]
            splits = splits.values() if isinstance(splits, dict) else splits
            rows = [
                (name, length, 0)
                for split in splits
                for name, length in zip(split["filenames"], split["shard_lengths"], strict=True)
            ]
        else:
            return parse_folder_index(content)
        return {str(name): Entry(int(samples), int(size or 0)) for name, samples, size in rows}
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def stated_count(name: str) -> Entry | None:
    """What img2dataset's `NNNNN_stats.json` beside a shard states; None where there is none. Raises UserError."""
    if name.startswith(PIPE):
        return None
    folder, base, query = _split(name)
    content = _fetched(f"{folder}{base.removesuffix('.tar')}_stats.json{query}", TRIES)
    if content is None:
        return None
    with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Entry(int(json.loads(content)["successes"]), 0)
    return None


def _fetched(url: str, tries: int) -> bytes | None:
    """A small file; None where it is absent. Raises UserError."""
    content = io.BytesIO()
    try:
        download(url, content, tries=tries)
    except Unreachable as error:
        if error.absent:
            return None
        raise
    return content.getvalue()


def _listed(pattern: str, tries: int) -> list[str]:
    if is_http(pattern):
        raise UserError(
            f"{shown(pattern)}: HTTP lists no folders, and there is no {FOLDER_INDEX}; publish the one that `sr shard`"
            " writes, or name the shards by a brace pattern or list:FILE"
        )
    return persist(pattern, lambda: listing(pattern), tries=tries)


def download(
    name: str,
    file: BinaryIO,
    *,
    size: int | None = None,
    sha256: str = "",
    by: str = FOLDER_INDEX,
    grow: Callable[[int], None] = lambda size: None,
    tries: int | None = None,
) -> str:
    """Write a whole remote file into `file` (open for writing) and return its SHA-256 in hex.

    What breaks on the way is tried again (see `persist`), from where it broke if the server can do that and what came
    can be told to be of the same file. `size` and `sha256` are what it has to have, `by` the file that says so;
    grow(size) is called before that many bytes are in the file.
    """
    transfer = _Transfer(name, file, size, sha256, by, grow)
    return persist(name, transfer.attempt, transfer, tries=tries)


def persist(name: str, attempt: Callable[[], T], transfer: "_Transfer | None" = None, *, tries: int | None = None) -> T:
    """Try until it works. Raises Unreachable, with the file and the cause: at once where no wait would help, else
    after TRIES without progress, between which it waits longer and longer (a minute in all)."""
    failed = reached = 0
    tries = tries or TRIES
    while True:
        try:
            return attempt()
        except Hopeless as error:
            failure = Unreachable(f"{shown(name)}: {error.cause}; {error.fix}")
            failure.absent = error.absent
            raise failure from None
        except Lost as error:
            if transfer and transfer.furthest >= reached + CHUNK:
                failed, reached = 0, transfer.furthest
            failed += 1
            if failed == tries:
                raise Unreachable(
                    f"{shown(name)}: {error} ({tries} tries); mend the server or the way to it, then run this again"
                ) from None
            wait = backoff(name, failed)
            print(f"{shown(name)}: {error}; trying again in {wait:.1f} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def backoff(name: str, failed: int) -> float:
    """Seconds before the next try: FIRST_WAIT, doubled up to LONGEST_WAIT, times 0.5 to 1.5.

    The factor is a function of file, rank and try, so that runs repeat themselves and yet nodes do not knock at once.
    """
    key = f"{name} {os.environ.get('RANK', '0')} {failed}".encode()
    draw = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    return float(min(FIRST_WAIT * 2.0 ** (failed - 1), LONGEST_WAIT) * (0.5 + draw))


class _Transfer:
    """One file on its way. done: the bytes that are in `file` by now; furthest: the most that there ever were."""

    def __init__(
        self, name: str, file: BinaryIO, size: int | None, sha256: str, by: str, grow: Callable[[int], None]
    ) -> None:
        self._name, self._file, self._grow = name, file, grow
        self._size, self._sha256, self._by = size, sha256, by
        self._tag = self._wrong = ""
        self.furthest = 0
        self._restart()

    def _restart(self) -> None:
        self._file.seek(0)  # and not shorter: it holds the room that was made for it
        self._done, self._digest, self._tag = 0, hashlib.sha256(), ""

    def attempt(self) -> str:
        """Raises Lost and Hopeless."""
        if not self._tag and not self._sha256:
            self._restart()  # nothing would tell that what follows belongs to what came
        try:
            body = open_at(self._name, self._done, self._tag)
        except Changed:
            self._restart()
            raise
        try:
            if body.start != self._done:
                self._restart()
            self._receive(body)
        finally:
            with suppress(Exception):  # a broken connection may well fail to close
                body.close()
        return self._checked()

    def _receive(self, body: Body) -> None:
        total = body.size if self._size is None else self._size
        if body.size not in (None, total):
            raise Lost(f"it has {body.size} bytes, and {total} by {self._by}")
        self._tag = body.tag
        while total is None or self._done < total:
            with losses():
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
            raise Lost(f"{came} bytes came of {total}")

    def _checked(self) -> str:
        found = self._digest.hexdigest()
        if self._sha256 and found != self._sha256:
            self._restart()
            cause = f"what came is not what {self._by} says (SHA-256)"
            if found == self._wrong:
                raise Hopeless(f"{cause}, twice the same", f"publish the shard again or correct {self._by}")
            self._wrong = found
            raise Lost(cause)
        self._file.truncate(self._done)
        return found
