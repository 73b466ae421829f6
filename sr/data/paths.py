"""Resolve the paths of options (folders, globs, brace patterns, package files, URLs, lists) to files."""

import glob
import importlib.util
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from braceexpand import braceexpand

from sr.core.errors import UserError
from sr.core.paths import expanded
from sr.data.remote.download import Catalog, Remote, find, listed, shown
from sr.data.remote.transport import PIPE, is_remote
from sr.data.scan import COMPRESSED_SUFFIXES, compressed
from sr.images import READ_SUFFIXES
from sr.images.listing import Skipped, kind_of, list_folder, printable, unfit

T = TypeVar("T")
PACKAGE = "package:"
LIST = "list:"


@dataclass(frozen=True)
class Images:
    """Image files. keys: the path of each below the folder or glob that named it, without suffix ("clip1/000").
    skipped: the files of these folders that are not taken."""

    paths: list[Path]
    keys: list[str]
    skipped: Skipped = field(default_factory=Skipped)


def find_images(patterns: str | Path | Sequence[str | Path]) -> Images:
    """Images named by folders (searched through), globs, `{a,b}` and `{00..09}` patterns, or files.

    `package:skimage/data/coffee.png` is a file inside an installed package. Raises UserError if nothing matches.
    """
    skipped = Skipped()
    names = [patterns] if isinstance(patterns, str | Path) else patterns
    rows = _expand([str(name) for name in names], partial(_keyed, skipped=skipped), "images", skipped)
    return Images([path for path, _ in rows], [key for _, key in rows], skipped)


def images_of(paths: Sequence[Path]) -> Images:
    """Given files; their keys are below the folder that all of them share."""
    root = os.path.commonpath([path.absolute().parent for path in paths]) if paths else ""
    return Images([*paths], [Path(os.path.relpath(path, root)).with_suffix("").as_posix() for path in paths])


def image_paths(patterns: str | Sequence[str]) -> list[Path]:
    """The files of `find_images`."""
    return find_images(patterns).paths


def _keyed(name: str, *, skipped: Skipped) -> list[tuple[Path, str]]:
    """The files behind a local name, each with its key."""
    name = _real(name)
    listing = list_folder(name, READ_SUFFIXES) if os.path.isdir(name) else None
    if listing is not None:
        skipped.update(listing.skipped)
    found = listing.paths if listing is not None else _files(name, skipped)
    root = name if listing is not None else _fixed_part(name)
    return [(path, Path(os.path.relpath(path, root)).with_suffix("").as_posix()) for path in found]


def _fixed_part(name: str) -> str:
    """The folder above the first magic character of a glob, or above a file."""
    if os.path.exists(name):
        return os.path.dirname(name) or "."
    parts = name.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))]) or (
        "/" if name.startswith("/") else "."
    )


def shard_paths(patterns: str | Sequence[str], catalog: Catalog, skipped: Skipped | None = None) -> list[Path | Remote]:
    """Tars named by folders (their `*.tar`), globs, brace patterns, files, URLs, `pipe:COMMAND`, or `list:FILE`.

    A list file has one of these per line, except commands and lists; lines that start with # are comments.
    catalog: finds remote shards. skipped: counts other files in the folders. Raises UserError if nothing matches.
    """
    skipped = skipped if skipped is not None else Skipped()

    def shards(name: str) -> list[Path | Remote]:
        if name.startswith(LIST):
            return _expand(_lines(expanded(name[len(LIST) :])), shards, "tar shards")
        if is_remote(name):
            return [*find(name, catalog)]
        return [*(_tars(_real(name), skipped) if os.path.isdir(_real(name)) else _files(name, skipped))]

    return _expand(patterns, shards, "tar shards", skipped)


def file_names(patterns: str | Sequence[str], suffix: str) -> list[str]:
    """Local files and URLs of fsspec: folders (their files with `suffix`), globs, brace patterns. Raises UserError."""

    def find_names(name: str) -> list[str]:
        if is_remote(name):
            return listed(name) if glob.has_magic(name.partition("://")[2]) else [name]
        name = _real(name)
        return [str(path) for path in _files(f"{name}/*{suffix}" if os.path.isdir(name) else name)]

    return _expand(patterns, find_names, f"{suffix} files")


def _tars(folder: str, skipped: Skipped) -> list[Path]:
    """The tars directly in a folder, sorted. Raises UserError where all are compressed."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                mode = entry.stat().st_mode
            except OSError:
                skipped.add("broken links", entry.path)
                continue
            suffixes = Path(entry.name).suffixes
            if entry.name.startswith("."):
                continue
            if stat.S_ISDIR(mode):
                skipped.add("folders", entry.path)
            elif reason := unfit(entry.name, mode, (".tar",)):
                if entry.name.lower().endswith(".tgz") or ".tar" in suffixes or not stat.S_ISREG(mode):
                    skipped.add(reason, entry.path)
            else:
                found.append(Path(entry.path))
    packed = next((r for r, s in ((f"with suffix {s}", s) for s in COMPRESSED_SUFFIXES) if r in skipped.reasons), None)
    if packed and not found:
        suffix = packed.rpartition(" ")[2]
        inner = suffix if suffix == ".tgz" else f".tar{suffix}"
        raise UserError(compressed(f"{folder}/*{inner}", COMPRESSED_SUFFIXES[suffix]))
    return found


def _expand(
    patterns: str | Sequence[str], find: Callable[[str], list[T]], what: str, skipped: Skipped | None = None
) -> list[T]:
    """Expand braces and find the matches of each pattern, in order. Raises UserError if one has none."""
    found: list[T] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            plain = "{" not in pattern or (not is_remote(pattern) and Path(pattern).exists())
            names = [pattern] if plain else list(braceexpand(pattern))
        except ValueError:
            raise UserError(
                f"'{shown(pattern)}' has unbalanced braces; close them or escape them with a backslash"
            ) from None
        matches = [match for name in names for match in find(name)]
        if not matches:
            why = f" ({skipped})" if skipped and skipped.total else ""
            raise UserError(f"'{shown(pattern)}' matches no {what}{why}; correct the path")
        found += matches
    if not found:
        raise UserError(f"an empty list matches no {what}; name a folder or files")
    return found


def _lines(file: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{LIST}{file} cannot be read ({error}); correct the path") from None
    wrong = next((line for line in lines if line.startswith((PIPE, LIST))), None)
    if wrong is not None:
        kind = wrong.partition(":")[0]
        raise UserError(
            f"{LIST}{file} has a line with {kind}:, which is allowed in the options only; set it as data.source.path"
        )
    return [line for line in lines if line and not line.startswith("#")]


def _files(name: str, skipped: Skipped | None = None) -> list[Path]:
    """The regular files behind a local file name or glob. Raises UserError for a file that is not there."""
    name = _real(name)
    path = Path(name)
    if path.exists():
        if not path.is_file():
            raise UserError(f"'{printable(name)}' is a {kind_of(path.stat().st_mode)}; name an image file or a folder")
        return [path]
    if not glob.has_magic(name):
        raise UserError(f"there is no '{printable(name)}'; correct the path")
    found: list[Path] = []
    for hit in sorted(glob.glob(name, recursive=True)):
        reason = unfit(hit, os.stat(hit).st_mode, ("",)) if os.path.exists(hit) else "broken links"
        if "**" in name and _loops(os.path.dirname(hit)):
            reason = "link loops"
        if reason and skipped is not None:
            skipped.add(reason, hit)
        if not reason:
            found.append(Path(hit))
    return found


@lru_cache(maxsize=4096)
def _loops(folder: str) -> bool:
    """Whether the path of a folder visits one folder twice, by a link; `**` repeats such loops 40 times."""
    above = Path(folder)
    identities = [(status.st_dev, status.st_ino) for status in (os.stat(part) for part in (above, *above.parents))]
    return len(set(identities[:-1])) < len(identities[:-1])


def _real(name: str) -> str:
    if not name.startswith(PACKAGE):
        return expanded(name)
    package, _, inner = name[len(PACKAGE) :].partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"'{name}' needs the package '{package}', which is not installed; install it or name other files"
        )
    return str(Path(found.submodule_search_locations[0], inner))
