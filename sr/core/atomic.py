"""Files that appear whole or not at all."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EROFS
"""Errors after which a file system takes no more files."""


@contextmanager
def replacing(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, which takes the name of `path` when the block ends and is removed if it raises.

    The folder is made if need be. sync=True waits until the bytes are on the disk: for files that other files rely on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{short_name(path.name)}.{secrets.token_hex(4)}.tmp")
    try:
        yield aside
        if sync:
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def short_name(name: str) -> str:
    """`name`, or a unique shorter one for a name of more than 100 bytes: a base for the names of temporary files.

    File systems take 255 bytes in a name, some 143, and a file may use all of them.
    """
    data = os.fsencode(name)
    if len(data) <= 100:
        return name
    return f"{data[:90].decode('utf-8', 'ignore')}~{hashlib.blake2b(data, digest_size=4).hexdigest()}"
