"""Index tars by their headers: local files, blocks of a file, and remote files by ranges (`sr.data.remote.ranges`)."""

import io
import json
import os
import re
import shlex
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.data.codecs import MEMBER_SUFFIXES, size_in
from sr.data.index import (
    MALFORMED,
    USUAL,
    Blocks,
    Choice,
    Entry,
    ShardIndex,
    add_to_folder_index,
    load,
    read_folder_index,
    save,
)
from sr.data.where import EVERYTHING, refusal
from sr.images import ImageError
from sr.images.listing import Skipped, printable

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by first bytes
COMPRESSED_SUFFIXES = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
MOST_REASONS = 20  # kinds of skipped members that an index lists
CHUNK = 1 << 20  # bytes read at a time
HEAD = 1 << 14  # bytes in which the size of an image is looked for
BLOCK = 64_000_000  # bytes of a tar that are read as one, with `data.source.read: blocks`
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # webdataset's rule: the key ends at the first dot of the base name


class _Run(NamedTuple):
    """Members in a row that share a key: their names after the key, in lower case. start: of the first header."""

    key: str
    start: int
    members: list[tuple[str, tarfile.TarInfo]]


def scan(tar: Path, name: str = "", choice: Choice = USUAL, *, block: bool = False) -> ShardIndex:
    """Index a tar (USTAR, GNU or pax) by its headers; see `scan_file`. `name` replaces the path in errors."""
    with open(tar, "rb") as file:
        return scan_file(file, name or printable(tar), choice, block=block)


def scan_file(file: BinaryIO, name: str, choice: Choice = USUAL, *, block: bool = False) -> ShardIndex:
    """Index an open tar by its headers.

    A sample is a run of members with one key: `<key>.png` or `<key>.gt.png`, optionally with `<key>.lq.png` (or hr and
    lr), in any format of `sr.data.codecs`; or the members of `choice`. Other members are counted. block: the file is a
    block of a tar, without an end. Raises UserError if the tar is damaged, compressed or sparse.
    """
    size = file.seek(0, 2)
    return _index(_members(file, size, name, block=block), size, name, choice, file)


def from_listing(content: bytes, name: str, choice: Choice) -> ShardIndex:
    """The index of a tar by webshart's JSON file about it, which states the names, offsets and sizes of its members.

    `choice.where` has to be empty. Raises ValueError if the content is malformed.
    """
    try:
        parsed = json.loads(content)
        rows = sorted((int(row["offset"]), int(row["length"]), str(path)) for path, row in parsed["files"].items())
        size, end, members = int(parsed["filesize"]), 0, []
        for offset, length, path in rows:
            if not end + tarfile.BLOCKSIZE <= offset <= offset + length <= size:
                raise ValueError(f"'{path}' is not inside of the tar")
            member = tarfile.TarInfo(path)
            member.offset, member.offset_data, member.size = end, offset, length
            members.append(member)
            end = offset + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except MALFORMED as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return _index(members, size, name, choice, io.BytesIO())


def _index(members: Iterable[tarfile.TarInfo], size: int, name: str, choice: Choice, file: BinaryIO) -> ShardIndex:
    others = Skipped()
    keys: list[str] = []
    spans: list[list[list[int]]] = []
    starts: list[int] = []
    end = 0
    for run in _runs(members, others):
        images = _images(run, name, choice, others)
        if images and not (reason := _refusal(run, images, file, choice)):
            keys.append(run.key)
            spans.append(images)
            starts.append(run.start)
            end = max(member.offset_data + member.size for _, member in run.members)
        elif images:
            _skip(reason, run.key, others)
    counted = tuple((reason, *row) for reason, row in others.reasons.items())
    blocks = _blocks(starts, -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    array = np.array(spans, dtype=np.int64).reshape(-1, 2, 2)
    return ShardIndex(size, keys, array, others=counted, blocks=blocks, choice=choice)


def _runs(members: Iterable[tarfile.TarInfo], others: Skipped) -> Iterator[_Run]:
    """Yield the runs of members with one key."""
    run = _Run("", 0, [])
    for member in members:
        parts = MEMBER.fullmatch(member.name) if member.isfile() else None
        if parts is None:
            if not member.isdir():
                _skip("hidden members, or without suffix", member.name, others)
            continue
        if parts[1] != run.key:
            if run.members:
                yield run
            run = _Run(parts[1], member.offset, [])
        run.members.append((parts[2].lower(), member))
    if run.members:
        yield run


def _members(file: BinaryIO, size: int, name: str, *, block: bool) -> Iterator[tarfile.TarInfo]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.issparse():
                    raise UserError(f"{name} holds sparse files ('{member.name}'); make it without tar's --sparse")
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError(f"'{member.name}' is longer than the file")
                yield member
            if not block:
                expect_end(archive, name)
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        if unpack := how_to_unpack(file, name):
            raise UserError(unpack) from None
        raise UserError(f"{name} is not a whole, uncompressed tar ({error}); make or copy it again") from None


def _images(run: _Run, name: str, choice: Choice, others: Skipped) -> list[list[int]]:
    """[gt, lq] of a sample as [offset, size], [-1, -1] for no lq; [] if the run has no image."""
    found = [[-1, -1], [-1, -1]]
    for ending, member in run.members:
        role = choice.role(ending)
        if role is None:
            suffix = ending if f".{ending.rpartition('.')[2]}" in MEMBER_SUFFIXES else ending.rpartition(".")[2]
            _skip(f"members .{printable(suffix)}", member.name, others)
        elif found[role][1] >= 0:
            kind = "lq" if role else "gt"
            raise UserError(
                f"{name} has two {kind} images for the sample '{printable(run.key)}'; choose one by data.source.{kind}"
                f" (its name without the key, such as {kind}: jpg), or give them different keys"
            )
        else:
            found[role] = [member.offset_data, member.size]
    if found[0][1] < 0 <= found[1][1]:
        lonely = printable(run.key)
        raise UserError(f"{name} has an lq but no gt image for the sample '{lonely}'; add `{lonely}.gt.png` next to it")
    return found if found[0][1] >= 0 else []


def _refusal(run: _Run, images: list[list[int]], file: BinaryIO, choice: Choice) -> str:
    """Why `choice.where` leaves a sample out; "" if it is taken."""
    if choice.where == EVERYTHING:
        return ""
    offset, size = images[0]

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    def sides() -> tuple[int, int]:
        try:
            return size_in(read(offset, min(HEAD, size)), run.key)
        except ImageError:
            return size_in(read(offset, size), run.key)

    def metadata() -> bytes | None:
        member = next((member for ending, member in run.members if ending == "json"), None)
        return read(member.offset_data, member.size) if member else None

    try:
        return refusal(choice.where, size, sides, metadata)
    except ImageError:
        return "samples whose size cannot be read"


def _skip(reason: str, example: str, others: Skipped) -> None:
    known = reason in others.reasons or len(others.reasons) < MOST_REASONS
    others.add(reason if known else "other members", example)


def _blocks(starts: Sequence[int], end: int) -> Blocks:
    """Divide samples into runs of about BLOCK bytes, as (offset, bytes, samples); () if there is only one."""
    firsts = [0] if starts else []
    for number, start in enumerate(starts):
        if start - starts[firsts[-1]] >= BLOCK:
            firsts.append(number)
    stops = [*firsts[1:], len(starts)]
    edges = [*(starts[first] for first in firsts), end]
    rows = zip(firsts, stops, edges, edges[1:], strict=False)
    return tuple((at, to - at, stop - first) for first, stop, at, to in rows) if len(firsts) > 1 else ()


def how_to_unpack(file: BinaryIO, name: str) -> str:
    """The error message for a compressed tar, which ends in the command that unpacks it; "" for any other file."""
    file.seek(0)
    head = file.read(8)
    tool = next((tool for magic, tool in COMPRESSED.items() if head.startswith(magic)), "")
    return compressed(name, tool) if tool else ""


def compressed(name: str, tool: str) -> str:
    """The error message for a tar, or a glob of tars, compressed by `tool`."""
    quoted = name if set(name) & set("*?[") else shlex.quote(name)
    if name.lower().endswith(tuple(COMPRESSED_SUFFIXES)):
        command = f"{tool} -d {quoted}"
    else:
        command = f"{tool} -dc {quoted} > unpacked && mv unpacked {quoted}"
    return f"{name} is compressed, and samples are read from any place in a tar; unpack it once: {command}"


def expect_end(archive: tarfile.TarFile, name: str) -> None:
    """Raise ReadError unless only zeros follow: tarfile takes a damaged header for the end of the archive.

    Costs a pass over the bytes after the end: some KiB of zeros, unless the tar is damaged.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if not (rest := archive.fileobj.read(CHUNK)):
        print(f"{name} lacks the zeros at the end of a tar; if it was cut short, copy it again", file=sys.stderr)
    while rest:
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {archive.offset}, or several tars in one file")
        rest = archive.fileobj.read(CHUNK)


def index_of(tar: Path, choice: Choice = USUAL) -> ShardIndex:
    return load(tar, choice) or scan(tar, choice=choice)


def count_all(tars: Sequence[Path], choice: Choice = USUAL) -> tuple[list[Entry], dict[Path, ShardIndex]]:
    """Return the entry of each tar, and the indexes that could not be saved next to their tars.

    Entries of `index.json` are trusted. Other tars are scanned in parallel, and indexed for the next run if the folder
    is writable.
    """
    # Strings, since 50,000 Path objects take half a second.
    places = [str(tar).rpartition(os.sep)[::2] for tar in tars]
    known = {
        folder: read_folder_index(Path(folder), choice) for folder in dict.fromkeys(folder for folder, _ in places)
    }
    entries = [known[folder].get(name) for folder, name in places]
    missing = list(dict.fromkeys(tar for tar, entry in zip(tars, entries, strict=True) if entry is None))
    with ThreadPoolExecutor(16) as pool:
        indexes = dict(zip(missing, pool.map(partial(index_of, choice=choice), missing), strict=True))
    unsaved = {tar: index for tar, index in indexes.items() if not _saved(tar, index)}
    for folder in dict.fromkeys(tar.parent for tar in indexes if tar not in unsaved):
        new = {tar.name: index.entry for tar, index in indexes.items() if tar.parent == folder}
        used, fix = f"the index of {folder} is being written", "run this again"
        with Lock(folder / ".index.lock", used=used, fix=fix, wait=True):
            add_to_folder_index(folder, new, choice)
    both = zip(tars, entries, strict=True)
    return [indexes[tar].entry if entry is None else entry for tar, entry in both], unsaved


def _saved(tar: Path, index: ShardIndex) -> bool:
    try:
        save(tar, index)
    except OSError:
        return False
    return True
