"""Lists of paths, as people and programs write them."""

import codecs
import os
import re
from pathlib import Path

from sr.core.errors import UserError
from sr.core.paths import expanded


def read_list(name: str | Path) -> list[Path]:
    """The paths of a list file, one per line, as absolute paths.

    UTF-8, UTF-16 with a byte order mark, or any bytes; LF or CRLF. Empty lines and lines that start with # are
    skipped. A path may stand in quotes and may start with ~ or hold variables ($HOME). Relative paths start at the
    working directory. The output of `find -print0` is read as well.

    Raises:
        UserError: the file cannot be read or names no path.
    """
    path = Path(expanded(str(name)))
    try:
        text = _text(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file with one path per line") from None
    lines = text.split("\0") if "\0" in text else [line for line in re.split("\r\n|\n|\r", text) if line[:1] != "#"]
    paths = [_path(line) for line in lines if line.strip()]
    if not paths or ("\0" in text and not any(map(os.path.lexists, paths))):
        raise UserError(f"{path} names no files; give a file with one path per line")
    return paths


def _text(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def _path(line: str) -> Path:
    """The first reading of the line that exists: as written, stripped, unquoted; else the last of them."""
    plain = line.strip()
    unquoted = plain[1:-1] if len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'" else plain
    readings = [line, plain, unquoted, expanded(unquoted)]
    return Path(os.path.abspath(next((reading for reading in readings if os.path.lexists(reading)), readings[-1])))
