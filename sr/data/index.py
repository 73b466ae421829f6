"""Index of the samples in a tar, so that any sample takes one read.

`x.index.json` next to `x.tar` holds its keys and offsets. `index.json` in each folder holds the sample counts, sizes
and checksums of all its shards. A run reads only the latter at its start, and the others when it opens their shards.
Published with its shards, `index.json` fixes the sampling order before anything is downloaded (`sr.data.remote`).
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
MOST_REASONS = 20  # kinds of skipped members that an index lists
CHUNK = 1 << 20  # bytes read at a time
ROLES = {"": 0, "gt": 0, "hr": 0, "b": 0, "lq": 1, "lr": 1, "a": 1}  # a and b: input and target of translation
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # webdataset's rule: the key ends at the first dot of the base name

# What reading values out of untrusted JSON may raise.
MALFORMED = (ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError)
Others = tuple[tuple[str, int, str], ...]


class MemberNames(NamedTuple):
    """Which members of a sample to read, by what follows the key and its dot ("image.jpg"); "" for the usual names."""

    gt: str = ""
    lq: str = ""

    @property
    def tag(self) -> str:
        """Part of the names of index files; differs for each choice of members."""
        return f".{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:8]}" if any(self) else ""

    def role(self, ending: str) -> int | None:
        """0 for gt, 1 for lq, None for any other member. ending: in lower case."""
        if any(self):
            return next((role for role, name in enumerate(self) if name and name.lower() == ending), None)
        prefix, _, suffix = ending.rpartition(".")
        return ROLES.get(prefix) if f".{suffix}" in MEMBER_SUFFIXES else None


USUAL = MemberNames()


class Entry(NamedTuple):
    """The entry of a tar in the index of its folder.

    bytes: 0 if unknown. sha256: of the whole file, in hex; "" if unknown. others: members outside of samples, as
    (reason, count, example).
    """

    samples: int
    bytes: int
    sha256: str = ""
    others: Others = ()


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar.

    keys: one for each sample. spans: int64 [samples, 2, 2], (gt, lq) x (offset, size) in bytes; size -1 for no lq.
    bytes: size of the tar, to detect a stale index. skipped: (name, reason) of images that `sr shard` left out.
    opaque: files whose transparency it dropped. sha256, others: see `Entry`. names: the members that were indexed.
    """

    bytes: int
    keys: list[str]
    spans: np.ndarray
    skipped: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""
    others: Others = ()
    names: MemberNames = USUAL
    opaque: list[str] = field(default_factory=list)

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
        "opaque": index.opaque,
        "sha256": index.sha256,
        "others": index.others,
    }
    with replacing(sidecar(tar, index.names)) as file:
        file.write_text(json.dumps(content), encoding="utf-8")


def load(tar: Path, names: MemberNames = USUAL) -> ShardIndex | None:
    """Load the saved index of a tar; None if it is missing, damaged or of another version of the tar."""
    try:
        content = json.loads(sidecar(tar, names).read_text(encoding="utf-8"))
        spans = np.array([row[1:] for row in content["samples"]], dtype=np.int64).reshape(-1, 2, 2)
        keys, skipped = [str(row[0]) for row in content["samples"]], [(str(n), str(r)) for n, r in content["skipped"]]
        sha256, others = str(content.get("sha256", "")), others_of(content.get("others", []))
        opaque = [str(name) for name in content.get("opaque", [])]
        index = ShardIndex(int(content["bytes"]), keys, spans, skipped, sha256, others, names, opaque)
        return index if content["version"] == 1 and _describes(index, tar) else None
    except (OSError, tarfile.TarError, *MALFORMED):
        return None


def others_of(content: Any) -> Others:
    return tuple((str(reason), int(count), str(example)) for reason, count, example in content)


def _describes(index: ShardIndex, tar: Path) -> bool:
    """Check the size of the tar, and the sizes in the headers of its first and its last sample.

    The size of the tar alone is not enough, since tars are padded to 10 KiB.
    """
    with open(tar, "rb") as file:
        for offset, size in index.spans[[0, -1], 0].tolist() if index.keys else []:
            file.seek(offset - tarfile.BLOCKSIZE)
            if tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape").size != size:
                return False
        return file.seek(0, 2) == index.bytes


def scan(tar: Path, name: str = "", names: MemberNames = USUAL) -> ShardIndex:
    """Index a tar (USTAR, GNU or pax) by its headers.

    A sample is a run of members with one key: `<key>.png` or `<key>.gt.png`, optionally with `<key>.lq.png` (or hr and
    lr), in any format of `sr.data.codecs`; or the members of `names`. Other members are counted. `name` replaces the
    path in errors. Raises UserError if the tar is damaged, compressed or sparse.
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
    """Yield (key, role, offset, size) of every image in a tar."""
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


def index_of(tar: Path, names: MemberNames = USUAL) -> ShardIndex:
    return load(tar, names) or scan(tar, names=names)


def count_all(tars: Sequence[Path], names: MemberNames = USUAL) -> tuple[list[Entry], dict[Path, ShardIndex]]:
    """Return the entry of each tar, and the indexes that could not be saved next to their tars.

    Entries of `index.json` are trusted. Other tars are scanned in parallel, and indexed for the next run if the folder
    is writable.
    """
    # Strings, since 50,000 Path objects take half a second.
    places = [str(tar).rpartition(os.sep)[::2] for tar in tars]
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
    """Return name -> Entry for each indexed shard of a folder; empty if the folder has no index."""
    path = folder_index(folder, names)
    try:
        return parse_counts(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be understood ({error}); delete it and it is made again") from None


def parse_counts(content: bytes) -> dict[str, Entry]:
    """Return name -> Entry for each shard in our `index.json`, a shard list of wids, or timm's `_info.json`.

    Raises ValueError if the content is malformed.
    """
    try:
        parsed: Any = json.loads(content)
        if "shardlist" in parsed:
            rows = [
                (row["url"].rpartition("/")[2], row["nsamples"], row.get("filesize")) for row in parsed["shardlist"]
            ]
            return {str(name): Entry(int(samples), int(size or 0)) for name, samples, size in rows}
        if "splits" in parsed:
            splits = parsed["splits"].values() if isinstance(parsed["splits"], dict) else parsed["splits"]
            pairs = [zip(split["filenames"], split["shard_lengths"], strict=True) for split in splits]
            return {str(name): Entry(int(samples), 0) for split in pairs for name, samples in split}
        return {
            str(row["name"]): Entry(
                int(row["samples"]), int(row["bytes"]), str(row.get("sha256", "")), others_of(row.get("others", []))
            )
            for row in parsed["shards"]
        }
    except MALFORMED as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def write_folder_index(folder: Path, shards: Mapping[str, Entry], names: MemberNames = USUAL) -> None:
    entries = sorted(shards.items())
    rows = [{"name": name} | {k: v for k, v in entry._asdict().items() if v not in ("", ())} for name, entry in entries]
    content = {"version": 1, "samples": sum(entry.samples for _, entry in entries), "shards": rows}
    with replacing(folder_index(folder, names)) as file:
        file.write_text(json.dumps(content, indent=1), encoding="utf-8")
