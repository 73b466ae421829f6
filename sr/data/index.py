"""Files that index the samples of tars, so that any sample takes one read. `sr.data.scan` makes them.

`x.index.json` next to `x.tar` holds its keys and offsets. `index.json` in each folder holds the sample counts, sizes,
checksums and blocks of all its shards. A run reads only the latter at its start, and the others when it opens their
shards. Published with its shards, `index.json` fixes the sampling order before anything is downloaded
(`sr.data.remote`).
"""

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.data.codecs import MEMBER_SUFFIXES
from sr.data.where import EVERYTHING, Where

FOLDER_INDEX = "index.json"
ROLES = {"": 0, "gt": 0, "hr": 0, "b": 0, "lq": 1, "lr": 1, "a": 1}  # a and b: input and target of translation

# What reading values out of untrusted JSON may raise.
MALFORMED = (ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError)
Others = tuple[tuple[str, int, str], ...]
Blocks = tuple[tuple[int, int, int], ...]
UNCOUNTED = -1


class Choice(NamedTuple):
    """Which samples of a tar to take, and which of their members.

    gt, lq: what follows the key and its dot ("image.jpg"); "" for the usual names. where: conditions on a sample.
    """

    gt: str = ""
    lq: str = ""
    where: Where = EVERYTHING

    @property
    def tag(self) -> str:
        """Part of the names of index files; differs for each choice."""
        words = [self.gt, self.lq] + ([self.where.model_dump_json()] if self.where != EVERYTHING else [])
        return f".{hashlib.sha256(repr(tuple(words)).encode()).hexdigest()[:8]}" if any(words) else ""

    def role(self, ending: str) -> int | None:
        """0 for gt, 1 for lq, None for any other member. ending: in lower case."""
        if self.gt or self.lq:
            return next((role for role, name in enumerate((self.gt, self.lq)) if name and name.lower() == ending), None)
        prefix, _, suffix = ending.rpartition(".")
        return ROLES.get(prefix) if f".{suffix}" in MEMBER_SUFFIXES else None


USUAL = Choice()


class Entry(NamedTuple):
    """The entry of a tar in the index of its folder.

    samples: UNCOUNTED if unknown. bytes: 0 if unknown. sha256: of the whole file, in hex; "" if unknown. others:
    members outside of samples, as (reason, count, example). blocks: runs of whole samples, as (offset, bytes, samples),
    if there are several (see `sr.data.scan.BLOCK`).
    """

    samples: int
    bytes: int
    sha256: str = ""
    others: Others = ()
    blocks: Blocks = ()

    @classmethod
    def parse(cls, samples: Any, bytes: Any, sha256: Any = "", others: Any = (), blocks: Any = ()) -> "Entry":
        """Check values out of untrusted JSON. Raises MALFORMED."""
        rows = tuple((int(offset), int(size), int(count)) for offset, size, count in blocks)
        if int(samples) < 0:
            raise ValueError(f"{samples} samples")
        return cls(int(samples), int(bytes), str(sha256), others_of(others), rows)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar.

    keys: one for each sample. spans: int64 [samples, 2, 2], (gt, lq) x (offset, size) in bytes; size -1 for no lq.
    bytes: size of the tar, to detect a stale index. skipped: (name, reason) of images that `sr shard` left out.
    opaque: files whose transparency it dropped. sha256, others, blocks: see `Entry`. choice: what was indexed.
    """

    bytes: int
    keys: list[str]
    spans: np.ndarray
    skipped: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""
    others: Others = ()
    blocks: Blocks = ()
    choice: Choice = USUAL
    opaque: list[str] = field(default_factory=list)

    @property
    def entry(self) -> Entry:
        return Entry(len(self.keys), self.bytes, self.sha256, self.others, self.blocks)


def sidecar(tar: Path, choice: Choice = USUAL) -> Path:
    return tar.with_suffix(f"{choice.tag}.index.json")


def folder_index(folder: Path, choice: Choice = USUAL) -> Path:
    return folder / f"index{choice.tag}.json"


def save(tar: Path, index: ShardIndex) -> None:
    content = {
        "version": 1,
        "bytes": index.bytes,
        "samples": [[key, *spans] for key, spans in zip(index.keys, index.spans.reshape(-1, 4).tolist(), strict=True)],
        "skipped": index.skipped,
        "opaque": index.opaque,
        "sha256": index.sha256,
        "others": index.others,
        "blocks": index.blocks,
    }
    with replacing(sidecar(tar, index.choice)) as file:
        file.write_text(json.dumps(content), encoding="utf-8")


def load(tar: Path, choice: Choice = USUAL) -> ShardIndex | None:
    """Load the saved index of a tar; None if it is missing, damaged or of another version of the tar."""
    try:
        content = json.loads(sidecar(tar, choice).read_text(encoding="utf-8"))
        spans = np.array([row[1:] for row in content["samples"]], dtype=np.int64).reshape(-1, 2, 2)
        keys, skipped = [str(row[0]) for row in content["samples"]], [(str(n), str(r)) for n, r in content["skipped"]]
        of_tar = [content["bytes"], content.get("sha256", ""), content.get("others", []), content.get("blocks", [])]
        entry = Entry.parse(len(keys), *of_tar)
        opaque = [str(name) for name in content.get("opaque", [])]
        index = ShardIndex(entry.bytes, keys, spans, skipped, *entry[2:], choice, opaque)
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


def add_to_folder_index(folder: Path, new: Mapping[str, Entry], choice: Choice = USUAL) -> None:
    """Add entries to a folder's index, or replace them. The caller holds a lock."""
    rows = read_folder_index(folder, choice)
    if any(rows.get(name) != entry for name, entry in new.items()):
        write_folder_index(folder, {**rows, **new}, choice)


def read_folder_index(folder: Path, choice: Choice = USUAL) -> dict[str, Entry]:
    """Return name -> Entry for each indexed shard of a folder; empty if the folder has no index."""
    path = folder_index(folder, choice)
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
            str(row["name"]): Entry.parse(**{key: row[key] for key in Entry._fields if key in row})
            for row in parsed["shards"]
        }
    except MALFORMED as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def write_folder_index(folder: Path, shards: Mapping[str, Entry], choice: Choice = USUAL) -> None:
    with replacing(folder_index(folder, choice)) as file:
        file.write_text(index_text(shards), encoding="utf-8")


def index_text(shards: Mapping[str, Entry]) -> str:
    """The content of an `index.json`, one tar per line."""
    entries = sorted(shards.items())
    rows = [{"name": name} | {k: v for k, v in entry._asdict().items() if v not in ("", ())} for name, entry in entries]
    head = json.dumps({"version": 1, "samples": sum(entry.samples for _, entry in entries)})[:-1]
    return f'{head}, "shards": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n"
