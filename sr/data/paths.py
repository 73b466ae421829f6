"""From what options say (folders, globs, brace patterns, files of a package) to files."""

import glob
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from braceexpand import braceexpand

from sr.errors import UserError
from sr.images import list_images

PACKAGE = "package:"


def image_paths(patterns: str | Sequence[str]) -> list[Path]:
    """Images named by folders (searched through), globs, `{a,b}` and `{00..09}` patterns, or files.

    `package:skimage/data/coffee.png` is a file inside an installed package. Raises UserError where nothing matches.
    """
    return expand(patterns, list_images, "images")


def expand(patterns: str | Sequence[str], inside: Callable[[Path], list[Path]], what: str) -> list[Path]:
    """The files behind each pattern in turn; `inside` lists those of a folder. Raises UserError for no match."""
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            names = list(braceexpand(pattern)) if "{" in pattern and not Path(pattern).exists() else [pattern]
        except ValueError:
            raise UserError(f"'{pattern}' has unbalanced braces; close them or escape them with a backslash") from None
        matches = [path for name in names for path in _matches(_real(name), inside)]
        if not matches:
            raise UserError(f"'{pattern}' leads to no {what}; correct the path")
        found += matches
    if not found:
        raise UserError(f"an empty list leads to no {what}; name a folder or files")
    return found


def _matches(name: str, inside: Callable[[Path], list[Path]]) -> list[Path]:
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
