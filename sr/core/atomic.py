"""Atomic file writes."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EROFS
"""Errors after which no more files can be written."""


@contextmanager
def replacing(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, or remove it on an exception.

    Args:
        path: its folder is created if it does not exist.
        sync: fsync the file before the rename, for files that other files depend on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{short_name(path.name)}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def short_name(name: str) -> str:
    """Return `name`, or a unique shorter one if it has more than 100 bytes, as a base for names of temporary files.

    File systems limit names to 255 bytes, some to 143.
    """
    data = os.fsencode(name)
    if len(data) <= 100:
        return name
    return f"{data[:90].decode('utf-8', 'ignore')}~{hashlib.blake2b(data, digest_size=4).hexdigest()}"
