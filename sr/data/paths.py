"""From what options say (folders, globs, brace patterns, files of a package, URLs, lists) to files."""

import glob
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from braceexpand import braceexpand

from sr.core.errors import UserError
from sr.data.remote.download import Indexes, Remote, find, shown
from sr.data.remote.transport import PIPE, is_remote
from sr.images import list_images

T = TypeVar("T")
PACKAGE = "package:"
LIST = "list:"


def image_paths(patterns: str | Sequence[str]) -> list[Path]:
    """Images named by folders (searched through), globs, `{a,b}` and `{00..09}` patterns, or files.

    `package:skimage/data/coffee.png` is a file inside an installed package. Raises UserError where nothing matches.
    """
    return _expand(patterns, partial(_matches, inside=list_images), "images")


def shard_paths(patterns: str | Sequence[str]) -> list[Path | Remote]:
    """Tars named by folders (their `*.tar`), globs, brace patterns, files, URLs, `pipe:COMMAND`, or `list:FILE`.

    A list file has one of these a line (but no command, and no list); lines that start with # are passed over.
    Raises UserError where nothing matches.
    """
    indexes: Indexes = {}

    def shards(name: str) -> list[Path | Remote]:
        if name.startswith(LIST):
            return _expand(_lines(name[len(LIST) :]), shards, "tar shards")
        if is_remote(name):
            return [*find(name, indexes)]
        return [*_matches(name, lambda folder: sorted(folder.glob("*.tar"), key=lambda tar: tar.name))]

    return _expand(patterns, shards, "tar shards")


def _expand(patterns: str | Sequence[str], find: Callable[[str], list[T]], what: str) -> list[T]:
    """What each pattern leads to in turn, its braces opened. Raises UserError for no match."""
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
            raise UserError(f"'{shown(pattern)}' leads to no {what}; correct the path")
        found += matches
    if not found:
        raise UserError(f"an empty list leads to no {what}; name a folder or files")
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
            f"{LIST}{file} has a line with {kind}:, which only the options may; name it in the source's path"
        )
    return [line for line in lines if line and not line.startswith("#")]


def _matches(name: str, inside: Callable[[Path], list[Path]]) -> list[Path]:
    """The files behind a local name; `inside` lists those of a folder."""
    name = _real(name)
    path = Path(name)
    if path.is_dir():
        return inside(path)
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise UserError(f"there is no '{name}'; correct the path")
    return [Path(hit) for hit in sorted(glob.glob(name, recursive=True)) if Path(hit).is_file()]


def _real(name: str) -> str:
    if not name.startswith(PACKAGE):
        return name
    package, _, inner = name[len(PACKAGE) :].partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(f"'{name}' needs the package '{package}', which is not there; install it or name other files")
    return str(Path(found.submodule_search_locations[0], inner))
