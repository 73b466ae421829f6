"""Report mistakes in an options file within a second: torch, whose import takes many, is imported after that."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from sr.config.base import read
from sr.config.options import resolve
from sr.config.recipes import locate
from sr.config.registry import Tables
from sr.config.signatures import decode, encode
from sr.core.atomic import replacing
from sr.core.cache_folder import cache_folder

PACKAGE = Path(__file__).parents[1]
BUILT = PACKAGE / "config" / "signatures.json"  # written by setup.py


def check(file: str | Path, sets: Iterable[str] = (), *, plugins: bool = True) -> tuple[str, ...]:
    """Check an options file. Imports torch only if no earlier start has cached the signatures of parts.

    Returns the file and the files it inherits from. Raises UserError for all mistakes.
    """
    document = read(locate(file), sets)
    if "torch" not in sys.modules:
        resolve(document, tables(), plugins=plugins)
    return document.files


def tables() -> Tables:
    """The tables of all parts with their signatures only, from a cache if it was made from the same source files."""
    key = _digest()
    for cache in (BUILT, _cached()):
        try:
            known = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(known, dict) and known.get("key") == key:
            return decode(known["tables"], _whole)
    with contextlib.suppress(OSError, TypeError):  # TypeError: a part with a parameter that JSON cannot hold
        write(_cached())
    return _whole()


def write(cache: Path) -> None:
    """Write the signatures of all parts."""
    content = json.dumps({"key": _digest(), "tables": encode(_whole())})
    with replacing(cache) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _cached() -> Path:
    try:
        return cache_folder("signatures") / "signatures.json"
    except RuntimeError:  # there is no home folder
        return BUILT


def _whole() -> Tables:
    from sr.train.builder import TABLES

    return TABLES


def _digest() -> str:
    """SHA-256 of all source files of the package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
