"""The manifest of finished outputs by content and settings: one JSON line per output, in `.sr/` of the output folder.

Each process appends to a separate file. When a run ends, rank 0 merges all files into one. A line is written after the
output has its final name; a line that a crash cut off is ignored.
"""

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from sr.core.atomic import replacing, short_name
from sr.core.errors import UserError
from sr.images.listing import kind_of
from sr.inference.folders.plan import ConversionJob

FOLDER = ".sr"
PLANNED = -1
Setting = str | int | float | bool | None


class Record(NamedTuple):
    """The output `target` was made from `source`; both are paths relative to the output folder.

    bytes, mtime (ns), sha256: of the input. settings: digest. made: bytes of the output; PLANNED before it is made.
    at: seconds since 1970. damage: what is missing of the input.
    """

    target: str
    source: str
    bytes: int
    mtime: int
    sha256: str
    settings: str
    made: int
    at: float
    damage: str = ""


class Stamp(NamedTuple):
    """Size and modification time (ns) of an input."""

    bytes: int
    mtime: int


def stamp(job: ConversionJob) -> Stamp:
    """Raises OSError, and UserError for what is no regular file: reading a pipe would wait for ever."""
    seen = job.source.stat()
    if not S_ISREG(seen.st_mode):
        raise UserError(f"is a {kind_of(seen.st_mode)}; give a regular file")
    return Stamp(job.size if job.member else seen.st_size, seen.st_mtime_ns)


class Manifest:
    """The records of an output folder.

    Args:
        folder: the output folder; None records nothing.
        settings: for each kind of job, a digest of everything that changes its output.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        self.folder, self.settings = folder, settings
        self._own = folder / FOLDER / f"{time.time_ns():x}-{secrets.token_hex(3)}.jsonl" if folder else None
        self._lock = threading.Lock()
        self._known: dict[str, Record] = {}
        self._read: dict[Path, int] = {}

    def load(self) -> None:
        """Read all files of the manifest; of several records of an output the latest counts."""
        for path in sorted(self.folder.joinpath(FOLDER).glob("*.jsonl")) if self.folder else ():
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                self._read[path] = len(data)
                for line in data.split(b"\n"):
                    self._take(line)

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            record = Record(**json.loads(line))
            if not (isinstance(record.target, str) and isinstance(record.source, str)):
                return
            known = self._known.get(record.target)
            if known is None or known.at <= record.at:
                self._known[record.target] = record

    def candidate(self, job: ConversionJob) -> Record | None:
        """The record of the output of a job, if it was made by these settings and still has the size it had then."""
        record = self._known.get(self._key(job))
        if record is None or record.settings != self.settings[job.kind]:
            return None
        with contextlib.suppress(OSError):
            if job.target.stat().st_size == record.made:
                return record
        return None

    def is_done(self, job: ConversionJob) -> bool:
        """Return whether size and modification time of the input equal those of the record."""
        record = self.candidate(job)
        with contextlib.suppress(OSError):
            return record is not None and (record.bytes, record.mtime) == stamp(job)
        return False

    def sources(self) -> dict[Path, Path]:
        """Every recorded output and the source it was made from, as absolute paths."""
        if self.folder is None:
            return {}
        absolute = os.path.abspath(self.folder)
        return {
            Path(absolute, record.target): Path(os.path.normpath(os.path.join(absolute, record.source)))
            for record in self._known.values()
        }

    def plan(self, jobs: Sequence[ConversionJob]) -> None:
        """Record that these outputs will be written, so that a later run knows them from inputs even if this one is
        killed between writing a file and recording it."""
        self._append([self._record(job, Stamp(0, 0), "", PLANNED, "") for job in jobs])

    def damage(self, job: ConversionJob) -> str:
        """What is missing of the input of an up-to-date output; "" for nothing or no such output."""
        record = self.candidate(job)
        return record.damage if record else ""

    def add(self, job: ConversionJob, stamped: Stamp, sha256: str, made: int, damage: str = "") -> None:
        self._append([self._record(job, stamped, sha256, made, damage)])

    def _record(self, job: ConversionJob, stamped: Stamp, sha256: str, made: int, damage: str) -> Record:
        source = os.path.relpath(job.label, self.folder or ".")
        settings = self.settings[job.kind]
        return Record(self._key(job), source, *stamped, sha256, settings, made, time.time(), damage)

    def _append(self, records: Sequence[Record]) -> None:
        if self._own is not None and records:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, open(self._own, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(record._asdict()) + "\n" for record in records)

    def fold(self) -> None:
        """Merge all files into one. A file that another run appended to meanwhile stays."""
        if self.folder is None:
            return
        self.load()
        files = {path: size for path, size in self._read.items() if path.exists()}
        if len(files) <= 1:
            return
        with replacing(self.folder / FOLDER / f"{time.time_ns():x}-{secrets.token_hex(3)}.jsonl") as aside:
            lines = (json.dumps(record._asdict()) + "\n" for record in self._known.values())
            aside.write_text("".join(lines), encoding="utf-8")
        for path, size in files.items():
            with contextlib.suppress(OSError):
                if path.stat().st_size == size:
                    path.unlink()

    def _key(self, job: ConversionJob) -> str:
        return job.target.relative_to(self.folder).as_posix() if self.folder else ""


def digest(settings: Mapping[str, Setting]) -> str:
    """A short hash of settings, independent of their order."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12).hexdigest()


def sweep(jobs: Sequence[ConversionJob], *, older: float = 600.0) -> None:
    """Remove temporary files that a killed run left next to the outputs, unchanged for `older` seconds."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(job.target.parent, set()).add(short_name(job.target.name))
    for folder, targets in names.items():
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp") and entry.name[1:].rpartition(".tmp")[0].rpartition(".")[0] in targets:
                    with contextlib.suppress(OSError):
                        if time.time() - entry.stat().st_mtime > older:
                            os.unlink(entry.path)
