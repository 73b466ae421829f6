"""Where the samples of a tar lie, so that any of them is one read away.

Beside `x.tar` stands `x.index.json` with its keys and offsets, and in each folder one `index.json` with the counts,
sizes and checksums of all its shards: that one alone is read at the start of a run, the others when their shard's turn
comes. Published with its shards, `index.json` makes their order known before the first byte of any
(`sr.data.remote.download`).
"""

import hashlib
import json
import os
import re
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.data.codecs import MEMBER_SUFFIXES
from sr.images.listing import Skipped, printable

FOLDER_INDEX = "index.json"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by first bytes
COMPRESSED_SUFFIXES = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
MOST_REASONS = 20  # kinds of skipped members that an index names
CHUNK = 1 << 20  # bytes read at a time
ROLES = {"": 0, "gt": 0, "hr": 0, "b": 0, "lq": 1, "lr": 1, "a": 1}  # a and b: of translation
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # webdataset's rule: the key ends at the first dot of the base name


Others = tuple[tuple[str, int, str], ...]


class MemberNames(NamedTuple):
    """The members of a sample to take, by what follows their key and its dot ("image.jpg"); "" for the usual names."""

    gt: str = ""
    lq: str = ""

    @property
    def tag(self) -> str:
        """Distinguishes the index files of these names from others of the same tar."""
        return f".{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:8]}" if any(self) else ""

    def role(self, ending: str) -> int | None:
        """0 for gt, 1 for lq, None for any other member. ending: in lower case."""
        if any(self):
            return next((role for role, name in enumerate(self) if name and name.lower() == ending), None)
        prefix, _, suffix = ending.rpartition(".")
        return ROLES.get(prefix) if f".{suffix}" in MEMBER_SUFFIXES else None


USUAL = MemberNames()


class Entry(NamedTuple):
    """What a folder's index says of a tar.

    bytes: 0 where it is not known. sha256: of the whole file, in hex; "" where it is not known. others: members that
    are no samples, (reason, how many, an example).
    """

    samples: int
    bytes: int
    sha256: str = ""
    others: Others = ()


@dataclass(frozen=True)
class ShardIndex:
    """keys: one a sample. spans: int64 [samples, 2, 2], (gt, lq) x (offset, size) in bytes; size -1 for no lq.

    bytes: size of the tar, by which a stale index is told. skipped: (name, reason) of what its maker left out.
    sha256, others: see `Entry`. names: those that were asked for.
    """

    bytes: int
    keys: list[str]
    spans: np.ndarray
    skipped: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""
    others: Others = ()
    names: MemberNames = USUAL

    @property
    def entry(self) -> Entry:
        return Entry(len(self.keys), self.bytes, self.sha256, self.others)


def sidecar(tar: Path, names: MemberNames = USUAL) -> Path:
    return tar.with_suffix(f"{names.tag}.index.json")


def folder_index(folder: Path, names: MemberNames = USUAL) -> Path:
    return folder / f"index{names.tag}.json"


def save(tar: Path, index: ShardIndex) -> None:
    content = {
        "version": 1,
        "bytes": index.bytes,
        "samples": [[key, *spans] for key, spans in zip(index.keys, index.spans.reshape(-1, 4).tolist(), strict=True)],
        "skipped": index.skipped,
        "sha256": index.sha256,
        "others": index.others,
    }
    with replacing(sidecar(tar, index.names)) as aside:
        aside.write_text(json.dumps(content), encoding="utf-8")


def load(tar: Path, names: MemberNames = USUAL) -> ShardIndex | None:
    """The saved index of a tar; None if there is none, or a damaged one, or one of another version of the tar."""
    try:
        content = json.loads(sidecar(tar, names).read_text(encoding="utf-8"))
        spans = np.array([row[1:] for row in content["samples"]], dtype=np.int64).reshape(-1, 2, 2)
        keys, skipped = [str(row[0]) for row in content["samples"]], [(str(n), str(r)) for n, r in content["skipped"]]
        sha256, others = str(content.get("sha256", "")), others_of(content.get("others", []))
        index = ShardIndex(int(content["bytes"]), keys, spans, skipped, sha256, others, names)
        return index if content["version"] == 1 and _describes(index, tar) else None
    except (
        OSError,
        ValueError,
        OverflowError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        tarfile.TarError,
    ):
        return None


def others_of(content: Any) -> Others:
    return tuple((str(reason), int(count), str(example)) for reason, count, example in content)


def _describes(index: ShardIndex, tar: Path) -> bool:
    """Whether the tar has the index's size, and headers of the right sizes before its first and its last sample.

    (Sizes alone are no proof: tars are filled up to the next 10 KiB.)
    """
    with open(tar, "rb") as file:
        for offset, size in index.spans[[0, -1], 0].tolist() if index.keys else []:
            file.seek(offset - tarfile.BLOCKSIZE)
            if tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape").size != size:
                return False
        return file.seek(0, 2) == index.bytes


def scan(tar: Path, name: str = "", names: MemberNames = USUAL) -> ShardIndex:
    """Index a tar by its headers: ours, webdataset's, GNU tar's, pax.

    Samples are runs of members with one key: `<key>.png` or `<key>.gt.png` with perhaps `<key>.lq.png` (hr and lr will
    do; any image format, and those of `sr.data.codecs`), or the members of `names`; others are counted. `name` stands
    for the tar in errors. Raises UserError if the tar is damaged, compressed or sparse.
    """
    size, name, others = tar.stat().st_size, name or printable(tar), Skipped()
    keys: list[str] = []
    spans: list[list[list[int]]] = []
    for key, role, offset, length in _images(tar, size, name, names, others):
        if not keys or keys[-1] != key:
            keys.append(key)
            spans.append([[-1, -1], [-1, -1]])
        if spans[-1][role][1] >= 0:
            kind = "lq" if role else "gt"
            raise UserError(
                f"{name} has two {kind} images for the sample '{printable(key)}'; choose one by data.source.{kind}"
                f" (its name without the key, such as {kind}: jpg), or give them different keys"
            )
        spans[-1][role] = [offset, length]
    lonely = next((key for key, (gt, _) in zip(keys, spans, strict=True) if gt[1] < 0), None)
    if lonely is not None:
        lonely = printable(lonely)
        raise UserError(f"{name} has an lq but no gt image for the sample '{lonely}'; add `{lonely}.gt.png` next to it")
    counted = tuple((reason, *row) for reason, row in others.reasons.items())
    return ShardIndex(size, keys, np.array(spans, dtype=np.int64).reshape(-1, 2, 2), others=counted, names=names)


def _images(
    tar: Path, size: int, name: str, names: MemberNames, others: Skipped
) -> Iterator[tuple[str, int, int, int]]:
    """(key, role, offset, size) of every image in a tar."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.issparse():
                    raise UserError(f"{name} holds sparse files ('{member.name}'); make it without tar's --sparse")
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError(f"'{member.name}' is longer than the file")
                parts = MEMBER.fullmatch(member.name) if member.isfile() else None
                role = names.role(parts[2].lower()) if parts else None
                if parts and role is not None:
                    yield parts[1], role, member.offset_data, member.size
                elif not member.isdir():
                    _skip(member, parts[2].lower() if parts else "", others)
            expect_end(archive, name)
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        if unpack := how_to_unpack(tar, name):
            raise UserError(unpack) from None
        raise UserError(f"{name} is not a whole, uncompressed tar ({error}); make or copy it again") from None


def _skip(member: tarfile.TarInfo, ending: str, others: Skipped) -> None:
    suffix = ending if f".{ending.rpartition('.')[2]}" in MEMBER_SUFFIXES else ending.rpartition(".")[2]
    reason = f"members .{printable(suffix)}" if ending else "hidden members, or without suffix"
    known = reason in others.reasons or len(others.reasons) < MOST_REASONS
    others.add(reason if known else "other members", member.name)


def how_to_unpack(tar: Path, name: str) -> str:
    """The error message for a compressed tar, which ends in the command that unpacks it; "" for any other file."""
    with open(tar, "rb") as file:
        head = file.read(8)
    tool = next((tool for magic, tool in COMPRESSED.items() if head.startswith(magic)), "")
    return compressed(name, tool) if tool else ""


def compressed(name: str, tool: str) -> str:
    """The error message for a tar (or a glob of tars) that `tool` made smaller."""
    quoted = name if set(name) & set("*?[") else shlex.quote(name)
    if name.lower().endswith(tuple(COMPRESSED_SUFFIXES)):
        command = f"{tool} -d {quoted}"
    else:
        command = f"{tool} -dc {quoted} > unpacked && mv unpacked {quoted}"
    return f"{name} is compressed, and samples are read from any place in a tar; unpack it once: {command}"


def expect_end(archive: tarfile.TarFile, name: str) -> None:
    """tarfile takes a damaged header or a hole for the end. The end is zeros alone, or (some writers) the file's.

    Costs a pass over what lies behind the end: some KiB of zeros, unless the tar is damaged.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if not (rest := archive.fileobj.read(CHUNK)):
        print(f"{name} lacks the zeros at the end of a tar; if it was cut short, copy it again", file=sys.stderr)
    while rest:
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {archive.offset}, or several tars in one file")
        rest = archive.fileobj.read(CHUNK)


def index_of(tar: Path, names: MemberNames = USUAL) -> ShardIndex:
    return load(tar, names) or scan(tar, names=names)


def count_all(tars: Sequence[Path], names: MemberNames = USUAL) -> tuple[list[Entry], dict[Path, ShardIndex]]:
    """The entry of each tar, and the indexes that could not be saved beside their tars.

    What `index.json` names is believed; tars it does not name are scanned (in parallel, they may lie far away) and
    indexed for the next time where the folder can be written to.
    """
    places = [
        str(tar).rpartition(os.sep)[::2] for tar in tars
    ]  # strings: of 50,000 shards, paths would take half a second
    known = {folder: read_folder_index(Path(folder), names) for folder in dict.fromkeys(folder for folder, _ in places)}
    entries = [known[folder].get(name) for folder, name in places]
    missing = list(dict.fromkeys(tar for tar, entry in zip(tars, entries, strict=True) if entry is None))
    with ThreadPoolExecutor(16) as pool:
        indexes = dict(zip(missing, pool.map(partial(index_of, names=names), missing), strict=True))
    unsaved = {tar: index for tar, index in indexes.items() if not _saved(tar, index)}
    for folder in dict.fromkeys(tar.parent for tar in indexes if tar not in unsaved):
        new = {tar.name: index.entry for tar, index in indexes.items() if tar.parent == folder}
        used, fix = f"the index of {folder} is being written", "run this again"
        with Lock(folder / ".index.lock", used=used, fix=fix, wait=True):
            add_to_folder_index(folder, new, names)
    both = zip(tars, entries, strict=True)
    return [indexes[tar].entry if entry is None else entry for tar, entry in both], unsaved


def _saved(tar: Path, index: ShardIndex) -> bool:
    try:
        save(tar, index)
    except OSError:
        return False
    return True


def add_to_folder_index(folder: Path, new: Mapping[str, Entry], names: MemberNames = USUAL) -> None:
    """Add entries to a folder's index, or replace them. The caller holds a lock."""
    rows = read_folder_index(folder, names)
    if any(rows.get(name) != entry for name, entry in new.items()):
        write_folder_index(folder, {**rows, **new}, names)


def read_folder_index(folder: Path, names: MemberNames = USUAL) -> dict[str, Entry]:
    """Name of each indexed shard of a folder -> Entry; empty where the folder has no index."""
    path = folder_index(folder, names)
    try:
        return parse_folder_index(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be understood ({error}); delete it and it is made again") from None


def parse_folder_index(content: bytes) -> dict[str, Entry]:
    """What an `index.json` says. Raises ValueError where it is none."""
    try:
        rows: Any = json.loads(content)["shards"]
        return {
            str(row["name"]): Entry(
                int(row["samples"]), int(row["bytes"]), str(row.get("sha256", "")), others_of(row.get("others", []))
            )
            for row in rows
        }
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def write_folder_index(folder: Path, shards: Mapping[str, Entry], names: MemberNames = USUAL) -> None:
    entries = sorted(shards.items())
    rows = [{"name": name} | {k: v for k, v in entry._asdict().items() if v not in ("", ())} for name, entry in entries]
    content = {"version": 1, "samples": sum(entry.samples for _, entry in entries), "shards": rows}
    with replacing(folder_index(folder, names)) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
