"""List the files of a folder tree by suffix, and count the files that are skipped."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Identity = tuple[int, int]  # device and inode


@dataclass
class Skipped:
    """Skipped files: for each reason the count and the first file."""

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, example: str | Path, count: int = 1) -> None:
        known, first = self.reasons.get(reason, (0, printable(example)))
        self.reasons[reason] = known + count, first

    def update(self, other: "Skipped") -> None:
        for reason, (count, example) in other.reasons.items():
            self.add(reason, example, count)

    @property
    def total(self) -> int:
        return sum(count for count, _ in self.reasons.values())

    def __str__(self) -> str:
        """As in `9 files skipped: 6 with suffix .txt (a/b.txt), 3 hidden (a/.DS_Store)`; "" where there are none."""
        if not self.reasons:
            return ""
        rows = sorted(self.reasons.items(), key=lambda row: -row[1][0])
        shown = ", ".join(f"{count} {reason} ({example})" for reason, (count, example) in rows)
        return f"{self.total} {'file' if self.total == 1 else 'files'} skipped: {shown}"


@dataclass(frozen=True)
class Listing:
    """paths: sorted. skipped: everything else in the tree."""

    paths: list[Path]
    skipped: Skipped


def list_folder(folder: str | Path, suffixes: Sequence[str]) -> Listing:
    """Every regular file under `folder` whose name ends in one of `suffixes` (lower case), sorted by path.

    Links to files and folders are followed; a link to a folder that contains it is skipped, so the search ends.
    Hidden files and folders, named pipes, sockets, devices and broken links are skipped and counted.
    """
    found, skipped = [], Skipped()
    for path, reason in walk(folder, suffixes):
        if reason:
            skipped.add(reason, path)
        else:
            found.append(path)
    return Listing(sorted(found, key=lambda path: path.as_posix()), skipped)


def walk(folder: str | Path, suffixes: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield (path, reason) for every entry of the tree; the reason is "" for files that `list_folder` lists."""
    outside = tuple((status.st_dev, status.st_ino) for status in map(os.stat, Path(folder).resolve().parents))
    for path, reason in _walk(os.fspath(folder), tuple(suffixes), outside):
        yield Path(path), reason


def _walk(folder: str, suffixes: tuple[str, ...], above: tuple[Identity, ...]) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(folder) as entries:
            rows = sorted(entries, key=lambda entry: entry.name)
        here = os.stat(folder)
    except OSError as error:
        yield folder, f"that cannot be read ({error.strerror})"
        return
    above = (*above, (here.st_dev, here.st_ino))
    for entry in rows:
        if entry.name.startswith("."):
            yield entry.path, "hidden"
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to itself, too
            yield entry.path, "broken links"
            continue
        if stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in above:
                yield entry.path, "link loops"
            else:
                yield from _walk(entry.path, suffixes, above)
        else:
            yield entry.path, unfit(entry.name, status.st_mode, suffixes)


def unfit(name: str, mode: int, suffixes: tuple[str, ...]) -> str:
    """Why a file is not taken; "" if it is. mode: of `os.stat`."""
    if not stat.S_ISREG(mode):
        return f"{kind_of(mode)}s"
    if name.lower().endswith(suffixes):
        return ""
    suffix = os.path.splitext(name)[1].lower()
    return f"with suffix {printable(suffix)}" if suffix else "without suffix"


def kind_of(mode: int) -> str:
    """What a file is, by the mode of `os.stat`."""
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder", stat.S_IFREG: "regular file"}
    return kinds.get(stat.S_IFMT(mode), "device")


def printable(name: str | Path) -> str:
    """A file name that any stream and any JSON file takes: bytes that are not UTF-8 become `\\xff`, controls too."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
