"""Write the `index.json` of tars that others published, reading their headers only (`sr index`)."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.core.progress import progress
from sr.data.index import FOLDER_INDEX, USUAL, Choice, Entry, index_text, parse_counts
from sr.data.paths import shard_paths
from sr.data.remote.download import Catalog, Remote, fetched, listed_members, retry, shown, split
from sr.data.remote.ranges import scan_remote
from sr.data.remote.transport import PIPE, is_http, is_remote, size_of, write
from sr.data.scan import scan
from sr.images.listing import Skipped

AT_ONCE = 32  # tars; most of the time passes waiting for answers
SAVE_EVERY = 100  # tars


class _Unlisted(Catalog):
    """A catalog of folders whose present index is not believed."""

    def index(self, folder: str, query: str) -> dict[str, Entry] | None:
        return None


@dataclass
class IndexReport:
    """The result of `make_index`. received, total: bytes that were read, and of the tars."""

    files: list[str] = field(default_factory=list)
    shards: int = 0
    samples: int = 0
    received: int = 0
    total: int = 0
    skipped: Skipped = field(default_factory=Skipped)


def make_index(
    paths: str | Sequence[str], out: str | Path | None = None, *, choice: Choice = USUAL, show: bool = True
) -> IndexReport:
    """Index tars by their headers, local or remote, and write one `index.json` per folder, or all entries to `out`.

    Remote tars are read by range requests, never their images; webshart's JSON next to a tar replaces its headers. Tars
    of equal size in an existing index are not read
    again, so an interrupted call resumes. Raises UserError for commands, and for HTTP without `out`.
    """
    with tempfile.TemporaryDirectory() as folder:
        shards = shard_paths(paths, _Unlisted(lambda: Path(folder)))
    groups: dict[str, dict[str, Path | Remote]] = {}
    for shard in shards:
        place, base = _place(shard, out)
        other = groups.setdefault(place, {}).setdefault(base, shard)
        if other != shard:
            raise UserError(f"two tars are called {base}; index each folder on its own")
    report = IndexReport()
    for place, group in groups.items():
        _index(place, group, choice, report, show)
    return report


def _place(shard: Path | Remote, out: str | Path | None) -> tuple[str, str]:
    """Where the entry of a tar is written, and its base name."""
    if isinstance(shard, Path):
        return str(out or shard.parent / FOLDER_INDEX), shard.name
    if shard.name.startswith(PIPE):
        raise UserError(f"{shown(shard.name)} is a command, whose output has no index; name files or URLs")
    folder, base, _ = split(shard.name)
    if out is None and is_http(shard.name):
        raise UserError(f"{shown(folder)}: HTTP cannot be written; add -o FILE and set data.source.index to that file")
    return str(out or f"{folder}{FOLDER_INDEX}"), base


def _index(place: str, group: dict[str, Path | Remote], choice: Choice, report: IndexReport, show: bool) -> None:
    rows = _present(place)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sizes = dict(zip(group, pool.map(_size, group.values()), strict=True))
        todo = [name for name, size in sizes.items() if name not in rows or not size or rows[name].bytes != size]
        found = pool.map(lambda name: _scanned(group[name], sizes[name], choice), todo)
        bar = progress(found, desc="indexing", total=len(todo), show=show, unit="tar")
        try:
            for number, (name, (entry, received)) in enumerate(zip(todo, bar, strict=True), 1):
                rows[name] = entry
                report.received += received
                if number % SAVE_EVERY == 0:
                    _write(place, rows)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    _write(place, rows)
    report.files.append(place)
    for entry in (rows[name] for name in group):
        report.shards, report.samples = report.shards + 1, report.samples + entry.samples
        report.total += entry.bytes
        for reason, count, example in entry.others:
            report.skipped.add(reason, example, count)


def _scanned(shard: Path | Remote, size: int, choice: Choice) -> tuple[Entry, int]:
    """The entry of a tar of `size` bytes, and the bytes that were received: of webshart's JSON, or of headers."""
    if isinstance(shard, Path):
        return scan(shard, choice=choice).entry, 0
    entry, received = listed_members(shard.name, choice)
    if entry is not None and entry.bytes == size:
        return entry, received
    entry, more = scan_remote(shard, choice)
    return entry, received + more


def _size(shard: Path | Remote) -> int:
    return shard.stat().st_size if isinstance(shard, Path) else size_of(shard.name)


def _present(place: str) -> dict[str, Entry]:
    """The entries of an earlier call."""
    content = fetched(place) if is_remote(place) else Path(place).read_bytes() if Path(place).exists() else None
    with suppress(ValueError):
        return parse_counts(content or b"")
    return {}


def _write(place: str, rows: dict[str, Entry]) -> None:
    if is_remote(place):
        retry(place, lambda: write(place, index_text(rows).encode()), tries=3)
    else:
        with replacing(place) as file:
            file.write_text(index_text(rows), encoding="utf-8")
